"""The ONNX writer: an `Encoder` becomes a graph, block by block."""
