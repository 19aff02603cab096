"""LitServe with two workers and two HTTP processes."""

import os

import litserve
from protocol import Loaded, inputs_of


class Api(litserve.LitAPI):
    def setup(self, device):
        self.loaded = Loaded()

    def decode_request(self, request):
        return inputs_of(request)

    def predict(self, inputs):
        return self.loaded.run(inputs)

    def encode_response(self, output):
        return self.loaded.answer(output)


if __name__ == "__main__":
    server = litserve.LitServer(Api(api_path="/infer"), accelerator="cpu", workers_per_device=2)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=2,
        generate_client_file=False,
        log_level="warning",
    )
