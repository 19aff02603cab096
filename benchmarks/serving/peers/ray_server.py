"""Ray Serve, two replicas."""

import os
import time

from protocol import answer_of, rows_of, session
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=64)
class Infer:
    def __init__(self):
        self.session = session()

    async def __call__(self, request: Request):
        return answer_of(self.session.run(None, {"x": rows_of(await request.json())})[0])


if __name__ == "__main__":
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])}, logging_config={"enable_access_log": False}
    )
    serve.run(Infer.bind(), route_prefix="/infer")
    while True:
        time.sleep(60)
