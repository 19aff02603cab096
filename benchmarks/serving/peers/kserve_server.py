"""KServe's Python server with a model of its own, two workers."""

import functools
import os

from kserve import InferOutput, InferResponse, Model, ModelServer
from protocol import Loaded


class Infer(Model):
    def __init__(self):
        super().__init__("model")
        self.ready = True

    @functools.cached_property
    def loaded(self):
        """In the worker: the model itself cannot be sent to it."""
        return Loaded()

    def predict(self, payload, headers=None, response_headers=None):
        scores = self.loaded.run({tensor.name: tensor.as_numpy() for tensor in payload.inputs})
        output = InferOutput(name=self.loaded.output, shape=list(scores.shape), datatype="FP32")
        output.set_data_from_numpy(scores, binary_data=False)
        return InferResponse(payload.id or "none", "model", [output])


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    server = ModelServer(http_port=port, grpc_port=port + 1, workers=2, enable_grpc=False, access_log_format="")
    server.start([Infer()])
