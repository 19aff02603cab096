"""``make bench-serving``: Skyloom and its peers, the same models, in turns; medians, and how many times the peer's rate ours is.

make bench-serving                              all; hours
make bench-serving ARGS="--models small --wires json --connections 64 --rounds 3 --peers fastapi,mosec"
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

from benchmarks.bench import machine
from benchmarks.serving import loads, ours, servers
from benchmarks.serving.loads import Outcome
from benchmarks.serving.models import MODELS, request
from benchmarks.serving.servers import PEERS, Target
from benchmarks.serving.wires import Inputs, Wire

_WARM_S = 1.0


def main() -> int:
    """Measure and print; returns 0 however the goals were met."""
    asked = _asked()
    print(machine())
    rounds: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="skyloom-bench-") as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in asked.models.split(",")}
        for name, path in paths.items():
            path.write_bytes(MODELS[name]().SerializeToString())
        with ours.running(paths) as mine:
            for name, path in paths.items():
                inputs, truth = request(path)
                with contextlib.ExitStack() as stack:
                    targets = [mine[name]]
                    for peer in filter(None, asked.peers.split(",")):
                        if PEERS[peer].models and name not in PEERS[peer].models:
                            continue
                        try:
                            targets.append(stack.enter_context(servers.running(PEERS[peer], path, inputs)))
                        except Exception as error:  # it cannot be had here: the others are still compared
                            print(f"{peer} is left out: {error}", file=sys.stderr)
                    for wire in (Wire(word) for word in asked.wires.split(",")):
                        able = [target for target in targets if wire in target.ports]
                        _check(able, wire, inputs, truth)
                        for connections in (int(part) for part in asked.connections.split(",")):
                            seen = _play(able, wire, inputs, connections, asked)
                            _print(f"{name}, {wire}, {connections} connections", seen)
                            rounds += [
                                {
                                    "model": name,
                                    "wire": wire,
                                    "connections": connections,
                                    "server": server,
                                    **one._asdict(),
                                }
                                for server, outcomes in seen.items()
                                for one in outcomes
                            ]
                    _print_processes(targets)
                    _print_half_load(targets, inputs, asked)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1))
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-serving", description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), help="which of them; '' for ours alone")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--wires", default=",".join(Wire))
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    return parser.parse_args()


def _check(targets: list[Target], wire: Wire, inputs: Inputs, truth: list[float]) -> None:
    for target in targets:
        if target.echoes:
            continue
        answer = servers.ask(target, wire, inputs)
        furthest = max(abs(one - other) for one, other in zip(answer, truth, strict=True))
        assert furthest < 1e-5, f"{target.name} answers {answer}, ONNX Runtime {truth}"


def _play(
    targets: list[Target], wire: Wire, inputs: Inputs, connections: int, asked: argparse.Namespace
) -> dict[str, list[Outcome]]:
    seen: dict[str, list[Outcome]] = defaultdict(list)
    for target in targets:
        loads.run(target, wire, inputs, connections, _WARM_S)
    for _ in range(asked.rounds):
        for target in random.sample(targets, len(targets)):
            seen[target.name].append(loads.run(target, wire, inputs, connections, asked.seconds))
    return seen


def _print(title: str, seen: dict[str, list[Outcome]]) -> None:
    print(f"\n{title}, {len(next(iter(seen.values())))} rounds")
    print(f"  {'':12}{'answers/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}{'ours is':>10}")
    mine = seen[ours.NAME]
    ranked = sorted(seen.items(), key=lambda item: -statistics.median(one.rate_per_s for one in item[1]))
    for server, outcomes in ranked:
        ratio = statistics.median(
            one.rate_per_s / max(other.rate_per_s, 1e-9) for one, other in zip(mine, outcomes, strict=True)
        )
        print(
            f"  {server:12}{statistics.median(one.rate_per_s for one in outcomes):>11,.0f}"
            f"{statistics.median(one.p50_ms for one in outcomes):>9.2f}{statistics.median(one.p99_ms for one in outcomes):>9.2f}"
            f"{sum(one.num_errors for one in outcomes):>8,}" + ("" if server == ours.NAME else f"{ratio:>9.2f}×"),
            flush=True,
        )


def _print_processes(targets: list[Target]) -> None:
    print(f"\n  {'':12}{'ready s':>9}{'MB':>8}   after the loads; all processes of the server")
    for target in targets:
        print(f"  {target.name:12}{target.ready_s:>9.2f}{servers.memory_mb(target.pids):>8,.0f}", flush=True)


def _print_half_load(targets: list[Target], inputs: Inputs, asked: argparse.Namespace) -> None:
    """What users feel when half of what a server can do is asked of it, in turns; an echo says what the machine and the load add."""
    able = [target for target in targets if Wire.JSON in target.ports]
    rates = {target.name: loads.run(target, Wire.JSON, inputs, 16, asked.seconds).rate_per_s for target in able}
    seen: dict[str, list[Outcome]] = defaultdict(list)
    for _ in range(asked.rounds):
        for target in random.sample(able, len(able)):
            seen[target.name].append(loads.at_rate(target, inputs, 16, rates[target.name] / 2, asked.seconds))
    print(f"\n  half load, json, 16 connections, {asked.rounds} rounds")
    print(f"  {'':12}{'answers/s':>11}{'of':>9}{'p50 ms':>9}{'p99 ms':>9}{'p99/p50':>9}{'errors':>8}")
    for name, outcomes in seen.items():
        rate, p50, p99 = (
            statistics.median(getattr(one, field) for one in outcomes) for field in ("rate_per_s", "p50_ms", "p99_ms")
        )
        times = statistics.median(one.p99_ms / max(one.p50_ms, 1e-9) for one in outcomes)
        errors = sum(one.num_errors for one in outcomes)
        print(
            f"  {name:12}{rate:>11,.0f}{rates[name]:>9,.0f}{p50:>9.2f}{p99:>9.2f}{times:>8.1f}×{errors:>8,}", flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
