"""Mosec: a Rust front and two Python workers that batch what is there."""

import os
import sys

import numpy as np
from mosec import Server, Worker
from protocol import answer_of, rows_of, session


class Infer(Worker):
    def __init__(self):
        self.session = session()

    def forward(self, data):
        rows = [rows_of(body) for body in data]
        scores = self.session.run(None, {"x": np.concatenate(rows)})[0]
        ends = np.cumsum([len(part) for part in rows])[:-1]
        return [answer_of(part) for part in np.split(scores, ends)]


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", os.environ["PORT"], "--log-level", "warning"]
    server = Server()
    server.append_worker(Infer, num=2, max_batch_size=16, max_wait_time=1)
    server.run()
