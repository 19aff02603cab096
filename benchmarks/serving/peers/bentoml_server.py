"""BentoML, two workers."""

import os

import bentoml
from protocol import answer_of, rows_of, session


@bentoml.service(workers=2, traffic={"concurrency": 1024}, logging={"access": {"enabled": False}})
class Infer:
    def __init__(self):
        self.session = session()

    @bentoml.api(route="/infer")
    def infer(self, inputs: list[dict]) -> dict:
        return answer_of(self.session.run(None, {"x": rows_of({"inputs": inputs})})[0])


if __name__ == "__main__":
    os.execvp(
        "bentoml", ["bentoml", "serve", "bentoml_server:Infer", "--host", "127.0.0.1", "--port", os.environ["PORT"]]
    )
