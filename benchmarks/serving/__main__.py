"""``make bench-serving``: Skyloom and its peers, the same models, in turns; medians, and how many times the peer's rate ours is.

make bench-serving                              all, some twenty minutes after the peers' environments are there
make bench-serving ARGS="--peers fastapi,mosec --models small --connections 64 --rounds 3"
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
from benchmarks.bench import machine
from benchmarks.serving import loads, models, ours, servers
from benchmarks.serving.loads import Outcome
from benchmarks.serving.servers import PEERS, Target, ask

_WARM_S = 1.0


def main() -> int:
    """Measure and print; returns 0 however the goals were met."""
    parser = argparse.ArgumentParser(prog="make bench-serving", description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), help="which of them; '' for ours alone")
    parser.add_argument("--models", default="small,convolution")
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    asked = parser.parse_args()
    print(machine())
    rounds: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="skyloom-bench-") as folder:
        paths = models.write(Path(folder))
        wanted = {name: paths[name] for name in asked.models.split(",")}
        with ours.running(wanted) as mine:
            for name, path in wanted.items():
                body, truth = _request(path)
                with contextlib.ExitStack() as stack:
                    targets = [mine[name]]
                    for peer in filter(None, asked.peers.split(",")):
                        try:
                            targets.append(stack.enter_context(servers.running(PEERS[peer], path, body)))
                        except Exception as error:  # it cannot be had here: the others are still compared
                            print(f"{peer} is left out: {error}", file=sys.stderr)
                    _check(targets, body, truth)
                    for connections in (int(part) for part in asked.connections.split(",")):
                        seen = _play(targets, body, connections, asked.rounds, asked.seconds)
                        _print(name, connections, seen)
                        rounds += [
                            {"model": name, "connections": connections, "server": server, **outcome._asdict()}
                            for server, outcomes in seen.items()
                            for outcome in outcomes
                        ]
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1))
    return 0


def _request(path: Path) -> tuple[bytes, list[float]]:
    """A request of one row, and the answer that ONNX Runtime itself gives."""
    session = onnxruntime.InferenceSession(path)
    shape = [1, *session.get_inputs()[0].shape[1:]]
    row = np.random.default_rng(3).normal(size=shape).round(3).astype(np.float32)
    tensor = {
        "name": "x",
        "shape": shape,
        "datatype": "FP32",
        "data": [round(float(value), 3) for value in row.ravel()],
    }
    return json.dumps({"inputs": [tensor]}).encode(), session.run(None, {"x": row})[0].ravel().tolist()


def _check(targets: list[Target], body: bytes, truth: list[float]) -> None:
    for target in targets:
        answer = json.loads(ask(target, body))["outputs"][0]["data"]
        furthest = max(abs(one - other) for one, other in zip(answer, truth, strict=True))
        assert furthest < 1e-5, f"{target.name} answers {answer}, ONNX Runtime {truth}"


def _play(
    targets: list[Target], body: bytes, connections: int, num_rounds: int, duration_s: float
) -> dict[str, list[Outcome]]:
    seen: dict[str, list[Outcome]] = defaultdict(list)
    for target in targets:
        loads.run(target, body, connections, _WARM_S)
    for _ in range(num_rounds):
        for target in random.sample(targets, len(targets)):
            seen[target.name].append(loads.run(target, body, connections, duration_s))
    return seen


def _print(model: str, connections: int, seen: dict[str, list[Outcome]]) -> None:
    print(f"\n{model}, {connections} connections, {len(next(iter(seen.values())))} rounds")
    print(f"  {'':12}{'answers/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}{'ours is':>10}")
    mine = seen["skyloom"]
    for server, outcomes in sorted(
        seen.items(), key=lambda item: -statistics.median(one.rate_per_s for one in item[1])
    ):
        ratio = statistics.median(
            one.rate_per_s / max(other.rate_per_s, 1e-9) for one, other in zip(mine, outcomes, strict=True)
        )
        print(
            f"  {server:12}{statistics.median(one.rate_per_s for one in outcomes):>11,.0f}"
            f"{statistics.median(one.p50_ms for one in outcomes):>9.2f}{statistics.median(one.p99_ms for one in outcomes):>9.2f}"
            f"{sum(one.num_errors for one in outcomes):>8,}" + ("" if server == "skyloom" else f"{ratio:>9.1f}×"),
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
