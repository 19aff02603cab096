"""MLServer with a runtime of its own, as its documentation has it: two parallel workers."""

import json
import os
import tempfile
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from protocol import Loaded


class Infer(MLModel):
    async def load(self) -> bool:
        self._loaded = Loaded()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        output = NumpyCodec.encode_output(name=self._loaded.output, payload=self._loaded.run(inputs))
        return InferenceResponse(model_name=self.name, outputs=[output])


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    folder = Path(tempfile.mkdtemp(prefix="mlserver-"))
    described = {"name": "model", "implementation": "mlserver_server.Infer"}
    (folder / "model-settings.json").write_text(json.dumps(described))
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 2, "debug": False, "logging_settings": None}
    (folder / "settings.json").write_text(json.dumps(settings))
    os.execvp("mlserver", ["mlserver", "start", str(folder)])
