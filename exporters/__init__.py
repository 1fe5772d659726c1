"""What an encoder is, and how it is written as ONNX, run and stored. Never imports prune_export."""
