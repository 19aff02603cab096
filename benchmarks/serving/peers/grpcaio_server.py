"""The gRPC library's own asyncio server, two processes on one port, the model called inline: a Python service without a product."""

import asyncio
import importlib.util
import os

import grpc
import numpy as np
from protocol import TYPES, Loaded

_spec = importlib.util.spec_from_file_location("open_inference_pb2", os.environ["MESSAGES"])
pb2 = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pb2)


async def serve():
    model = Loaded()

    async def infer(request, context):
        inputs = {
            tensor.name: np.frombuffer(raw, TYPES[tensor.datatype]).reshape(tensor.shape)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        output = model.run(inputs)
        answer = pb2.ModelInferResponse(model_name="model", raw_output_contents=[output.tobytes()])
        answer.outputs.add(name=model.output, datatype="FP32", shape=output.shape)
        return answer

    method = grpc.unary_unary_rpc_method_handler(
        infer, pb2.ModelInferRequest.FromString, pb2.ModelInferResponse.SerializeToString
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"ModelInfer": method})])
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    os.fork()
    asyncio.run(serve())
