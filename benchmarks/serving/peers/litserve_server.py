"""LitServe with two workers and two HTTP processes."""

import os

import litserve
from protocol import answer_of, rows_of, session


class Api(litserve.LitAPI):
    def setup(self, device):
        self.session = session()

    def decode_request(self, request):
        return rows_of(request)

    def predict(self, rows):
        return self.session.run(None, {"x": rows})[0]

    def encode_response(self, output):
        return answer_of(output)


if __name__ == "__main__":
    server = litserve.LitServer(Api(api_path="/infer"), accelerator="cpu", workers_per_device=2)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=2,
        generate_client_file=False,
        log_level="warning",
    )
