"""What texts of different lengths cost a sentence model in CPU time, by how batches are chosen from what is queued.

python -m benchmarks.serving.lengths [--queue 64] [--rows 16]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from benchmarks.serving.models import embedding

from skyloom.inference.services.lengths import like_lengths

_TEXTS, _ROUNDS = 256, 3


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.lengths", description=__doc__)
    parser.add_argument("--queue", type=int, default=64, help="texts that wait at any time")
    parser.add_argument("--rows", type=int, default=16, help="of a batch at most")
    asked = parser.parse_args()
    random = np.random.default_rng(3)
    spread = np.clip(random.lognormal(np.log(28), 0.8, _TEXTS), 4, 256).astype(int).tolist()
    with tempfile.TemporaryDirectory(prefix="skyloom-lengths-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(embedding().SerializeToString())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options)
        for name, lengths in (("all of 32 tokens", [32] * _TEXTS), ("4 to 256 tokens, half below 28", spread)):
            _print(name, session, lengths, asked.queue, asked.rows)
    return 0


def _print(name: str, session: onnxruntime.InferenceSession, lengths: list[int], queue: int, rows: int) -> None:
    rules: dict[str, Callable[[Sequence[int]], list[int]]] = {
        "one by one": lambda waiting: [0],
        "in their order": lambda waiting: list(range(min(rows, len(waiting)))),
        "like lengths": lambda waiting: like_lengths(waiting, rows),
    }
    seen: dict[str, list[float]] = {rule: [] for rule in rules}
    for _ in range(_ROUNDS):
        for rule, choose in rules.items():
            seen[rule].append(_cpu_s(session, lengths, queue, choose) / len(lengths) * 1e3)
    print(name)
    usual = statistics.median(seen["in their order"])
    for rule, found in seen.items():
        middle = statistics.median(found)
        print(f"  {rule:16}{middle:8.2f} ms of CPU a text (from {min(found):.2f})   {usual / middle:5.2f} ×")


def _cpu_s(
    session: onnxruntime.InferenceSession, lengths: list[int], queue: int, choose: Callable[[Sequence[int]], list[int]]
) -> float:
    waiting, rest = lengths[:queue], lengths[queue:]
    began = time.process_time()
    while waiting:
        places = choose(waiting)
        width = max(waiting[place] for place in places)
        mask = np.array([[1] * waiting[place] + [0] * (width - waiting[place]) for place in places], np.int64)
        inputs = {"input_ids": 2_000 * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
        session.run(None, {node.name: inputs[node.name] for node in session.get_inputs()})
        taken = set(places)
        waiting = [one for place, one in enumerate(waiting) if place not in taken]
        waiting += rest[: len(taken)]
        rest = rest[len(taken) :]
    return time.process_time() - began


if __name__ == "__main__":
    raise SystemExit(main())
