"""Ray Serve, two replicas."""

import os
import time

from protocol import Loaded, inputs_of
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=64)
class Infer:
    def __init__(self):
        self.model = Loaded()

    async def __call__(self, request: Request):
        return self.model.answer(self.model.run(inputs_of(await request.json())))


if __name__ == "__main__":
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])}, logging_config={"enable_access_log": False}
    )
    serve.run(Infer.bind(), route_prefix="/infer")
    while True:
        time.sleep(60)
