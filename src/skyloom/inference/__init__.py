"""The data plane: one process that serves one model over the Open Inference Protocol v2 (REST and gRPC).

wire/ (bytes) → codec (tensors) → batcher (rows that travel together) → model (ONNX Runtime). It never passes the control plane's door:
tokens, limits, the request log and the traffic statistics are part of this path.
"""
