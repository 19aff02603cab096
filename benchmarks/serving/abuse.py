"""``make bench-abuse``: what everybody else feels while one client does its worst, and what it costs in memory.

Good requests come at a fixed rate; rounds with and without the abuser take turns. Goals: others' p99 below twice what it was, every
malformed request answered within 10 ms, memory bounded.

make bench-abuse                                some ten minutes; use a quiet machine
make bench-abuse ARGS="--abusers deep,slow --rounds 1 --seconds 2"
"""

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import machine
from benchmarks.serving import loads, ours
from benchmarks.serving.abusers import ABUSERS, MALFORMED, Victim
from benchmarks.serving.loads import Outcome
from benchmarks.serving.models import MODELS, request
from benchmarks.serving.servers import Target
from benchmarks.serving.wires import Inputs, Wire

_GOAL_RATIO, _GOAL_MS = 2.0, 10.0
_BEGIN_S = 0.2  # of abuse, before others are looked at


def main() -> int:
    """Measure and print; returns 0 however the goals were met."""
    asked = _asked()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="skyloom-bench-") as folder:
        path = Path(folder) / "small.onnx"
        path.write_bytes(MODELS["small"]().SerializeToString())
        inputs, _ = request(path)
        with ours.running({"small": path}, num_replicas=asked.replicas) as running:
            target = running["small"]
            loads.at_rate(target, inputs, 8, asked.rate, 1.0)
            slowest = _malformed(target, asked.times)
            found = [_abused(name, target, inputs, asked) for name in asked.abusers.split(",")]
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "slowest_ms": slowest, "abusers": found}, indent=1))
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-abuse", description=__doc__)
    parser.add_argument("--abusers", default=",".join(ABUSERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each load")
    parser.add_argument("--rate", type=float, default=200.0, help="good requests a second")
    parser.add_argument("--acts", type=float, default=20.0, help="of an abuser, a second at most")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--times", type=int, default=100, help="that each malformed request is sent")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def _victim(target: Target, inputs: Inputs, acts_per_s: float) -> Victim:
    good, call = target.message(Wire.JSON, inputs), target.message(Wire.GRPC, inputs)
    ports = target.ports[Wire.JSON], target.ports[Wire.GRPC]
    return Victim(*ports, target.path, dict(target.headers), good.body.decode(), call.body.hex(), 1 / acts_per_s)


@contextmanager
def _abusing(name: str, victim: Victim) -> Iterator[None]:
    words = [sys.executable, "-m", "benchmarks.serving.abusers", name, json.dumps(victim._asdict())]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # it has begun
        time.sleep(_BEGIN_S)
        if process.poll() is not None:
            raise RuntimeError(f"the abuser {name} ended with {process.returncode}")
        yield
    finally:
        process.kill()
        process.communicate()


def _abused(name: str, target: Target, inputs: Inputs, asked: argparse.Namespace) -> dict[str, object]:
    """Good requests with and without one abuser, in turns."""
    victim = _victim(target, inputs, asked.acts)
    seen: dict[bool, list[Outcome]] = {True: [], False: []}
    pids = _model_servers(target)
    before_mb = sum(_status_mb(pid, "VmRSS") for pid in pids)
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts from here
    for _ in range(asked.rounds):
        for with_it in random.sample([True, False], 2):
            if with_it:
                with _abusing(name, victim):
                    seen[True].append(loads.at_rate(target, inputs, 8, asked.rate, asked.seconds))
            else:
                seen[False].append(loads.at_rate(target, inputs, 8, asked.rate, asked.seconds))
    peak_mb = sum(_status_mb(pid, "VmHWM") for pid in pids)
    alone, along = (statistics.median(one.p99_ms for one in seen[which]) for which in (False, True))
    ratios = [one.p99_ms / max(other.p99_ms, 1e-9) for one, other in zip(seen[True], seen[False], strict=True)]
    ratio, errors = statistics.median(ratios), sum(one.num_errors for one in seen[True])
    verdict = "" if ratio < _GOAL_RATIO and not errors else "   behind its goal"
    print(
        f"  {name:14} others' p99 {alone:7.2f} → {along:7.2f} ms, {ratio:5.2f}×, {errors} errors; "
        f"memory {before_mb:,.0f} → at most {peak_mb:,.0f} MB{verdict}",
        flush=True,
    )
    return {"name": name, "ratio": ratio, "p99_ms": along, "errors": errors, "before_mb": before_mb, "peak_mb": peak_mb}


def _malformed(target: Target, times: int) -> float:
    """Each malformed request, again and again, on one connection; how long the slowest answer took, in ms."""
    link = http.client.HTTPConnection("127.0.0.1", target.ports[Wire.JSON], timeout=10)
    headers = {**target.headers, "content-type": "application/json"}
    slowest: dict[str, float] = {}
    for name, body in MALFORMED.items():
        for _ in range(times):
            began = time.perf_counter()
            link.request("POST", target.path, body, headers)
            answer = link.getresponse()
            answer.read()
            took_ms = (time.perf_counter() - began) * 1e3
            assert 400 <= answer.status < 500, f"{name}: {answer.status}"
            slowest[name] = max(slowest.get(name, 0.0), took_ms)
    link.close()
    worst = max(slowest, key=lambda name: slowest[name])
    verdict = "" if slowest[worst] <= _GOAL_MS else "   behind its goal"
    print(
        f"  malformed: {len(slowest)} kinds, {times} times each; the slowest answer {slowest[worst]:.1f} ms ({worst}){verdict}"
    )
    return slowest[worst]


def _model_servers(target: Target) -> set[int]:
    """The replicas, and the gateway before them: whoever listens where the requests go."""
    home = Path(f"/proc/{target.pids[0]}/cwd").readlink().parent if target.pids else Path("/nowhere")
    found = set(target.pids)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"skyloom.inference.gateway" in words and (folder / "cwd").readlink().is_relative_to(home.parent):
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def _status_mb(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    sys.exit(main())
