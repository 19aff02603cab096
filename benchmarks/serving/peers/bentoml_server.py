"""BentoML, two workers."""

import os

import bentoml
from protocol import Loaded, inputs_of


@bentoml.service(workers=2, traffic={"concurrency": 1024}, logging={"access": {"enabled": False}})
class Infer:
    def __init__(self):
        self.model = Loaded()

    @bentoml.api(route="/infer")
    def infer(self, inputs: list[dict]) -> dict:
        return self.model.answer(self.model.run(inputs_of({"inputs": inputs})))


if __name__ == "__main__":
    os.execvp(
        "bentoml", ["bentoml", "serve", "bentoml_server:Infer", "--host", "127.0.0.1", "--port", os.environ["PORT"]]
    )
