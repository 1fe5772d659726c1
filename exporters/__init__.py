"""The description of an encoder, its writer as ONNX, and sessions that run it. Never imports prune_export."""
