"""Loads by C programs, so that what is measured is the server and not the client: wrk for REST, h2load for gRPC and for a fixed rate."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from benchmarks.serving.servers import Target
from benchmarks.serving.wires import Inputs, Message, Wire

_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nOUTCOME {\\"requests\\": %d, \\"us\\": %d, \\"p50\\": %d, \\"p99\\": %d, \\"errors\\": %d}\\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Outcome(NamedTuple):
    """What came of one load. Errors are answers other than 200, and what got none."""

    rate_per_s: float
    p50_ms: float
    p99_ms: float
    num_requests: int
    num_errors: int


def run(target: Target, wire: Wire, inputs: Inputs, connections: int, duration_s: float) -> Outcome:
    """Send one request after the other on each of some connections."""
    sent = target.message(wire, inputs)
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(sent.body)
        if wire is Wire.GRPC:
            return _h2load(target.url(wire), sent, body, connections, duration_s)
        return _wrk(target.url(wire), sent, body, connections, duration_s)


def at_rate(target: Target, inputs: Inputs, connections: int, rate_per_s: float, duration_s: float) -> Outcome:
    """Send JSON requests at a fixed rate, whatever the answers do: what users feel when the server is not full."""
    sent = target.message(Wire.JSON, inputs)
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(sent.body)
        each = max(1, round(rate_per_s / connections))
        return _h2load(target.url(Wire.JSON), sent, body, connections, duration_s, "--h1", f"--rps={each}")


def _wrk(url: str, sent: Message, body: Path, connections: int, duration_s: float) -> Outcome:
    script = body.with_name("load.lua")
    lines = ['wrk.method = "POST"', f'local file = io.open("{body}", "rb")', 'wrk.body = file:read("*a")']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in sent.headers.items()]
    script.write_text("\n".join([*lines, _DONE]))
    said = _said("wrk", "-t1", f"-c{connections}", f"-d{duration_s:g}s", "-s", str(script), url, duration_s=duration_s)
    told = json.loads(said.rpartition("OUTCOME ")[2])
    return Outcome(
        told["requests"] / told["us"] * 1e6, told["p50"] / 1e3, told["p99"] / 1e3, told["requests"], told["errors"]
    )


def _h2load(url: str, sent: Message, body: Path, connections: int, duration_s: float, *more: str) -> Outcome:
    """h2load knows no percentiles, but writes down every request: when, which status, for how many µs."""
    log = body.with_name("requests")
    headers = [word for name, value in sent.headers.items() for word in ("-H", f"{name}: {value}")]
    words = ["-t1", f"-c{connections}", "-m1", "-D", f"{duration_s:g}", "-d", str(body), f"--log-file={log}"]
    said = _said("h2load", *words, *more, *headers, url, duration_s=duration_s)
    rows = np.loadtxt(log, dtype=np.int64, delimiter="\t", ndmin=2)
    answered = rows[rows[:, 1] == 200] if len(rows) else np.zeros((0, 3), np.int64)
    failed = sum(
        int(number) for number in re.findall(r"(\d+) (?:failed|errored|timeout)", said.split("status codes")[0])
    )
    if not len(answered):
        return Outcome(0.0, 0.0, 0.0, len(rows), max(failed, len(rows)))
    p50, p99 = np.percentile(answered[:, 2], [50, 99]) / 1e3
    return Outcome(len(answered) / duration_s, p50, p99, len(rows), max(failed, len(rows) - len(answered)))


def _said(program: str, *words: str, duration_s: float) -> str:
    path = shutil.which(program)
    if path is None:
        raise RuntimeError(f"{program} is not installed: apt install wrk nghttp2-client")
    done = subprocess.run([path, *words], capture_output=True, text=True, timeout=duration_s + 60, check=True)
    return done.stdout
