"""The two wires of the Open Inference Protocol: HTTP/1.1 and gRPC."""
