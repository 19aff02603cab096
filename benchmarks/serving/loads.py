"""Load by wrk (apt install wrk): a C program, so that what is measured is the server and not the client."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.servers import Target

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


def run(
    target: Target, body: bytes, connections: int, duration_s: float, content_type: str = "application/json"
) -> Outcome:
    """Send one request after the other on each of some connections."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("wrk is not installed: apt install wrk")
    headers = {"content-type": content_type, **target.headers}
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder) / "body"
        content.write_bytes(body)
        lines = [
            'wrk.method = "POST"',
            f'local file = io.open("{content}", "rb")',
            'wrk.body = file:read("*a")',
            *(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()),
            _DONE,
        ]
        script = Path(folder) / "load.lua"
        script.write_text("\n".join(lines))
        url = f"http://{target.host}:{target.port}{target.path}"
        done = subprocess.run(
            [wrk, "-t1", f"-c{connections}", f"-d{duration_s:g}s", "-s", str(script), url],
            capture_output=True,
            text=True,
            timeout=duration_s + 60,
            check=True,
        )
    told = json.loads(done.stdout.rpartition("OUTCOME ")[2])
    return Outcome(
        told["requests"] / told["us"] * 1e6, told["p50"] / 1e3, told["p99"] / 1e3, told["requests"], told["errors"]
    )
