"""Mosec: a Rust front and two Python workers that batch what is there."""

import os
import sys

from mosec import Server, Worker
from protocol import Loaded, inputs_of


class Infer(Worker):
    def __init__(self):
        self.model = Loaded()

    def forward(self, data):
        return [self.model.answer(output) for output in self.model.run_together([inputs_of(body) for body in data])]


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", os.environ["PORT"], "--log-level", "warning"]
    server = Server()
    server.append_worker(Infer, num=2, max_batch_size=16, max_wait_time=1)
    server.run()
