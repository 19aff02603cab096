"""gRPC by a client that is not grpcio: Node's own, which brings its own HTTP/2. Needs node and npm."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import skyloom
from tests.inference.serving import TOKEN, oracle

_SCRIPT = Path(__file__).with_name("client.js")
_PROTO = Path(skyloom.__file__).parent / "inference" / "wire" / "open_inference.proto"
_PACKAGES = ("@grpc/grpc-js@1", "@grpc/proto-loader@0.8")
_UNAUTHENTICATED, _DEADLINE_EXCEEDED = 16, 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("npm") is None,
        reason="NODE IS NOT INSTALLED: gRPC is not tried with a second client (apt install npm)",
    ),
]


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    done = subprocess.run(
        ["npm", "install", "--silent", *_PACKAGES], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"NPM CANNOT INSTALL: gRPC is not tried with a second client: {done.stderr[-500:]}")
    return folder / "node_modules"


@pytest.mark.parametrize("compression", ["0", "2"], ids=["plain", "gzip"])
def test_another_client_is_answered_rightly(served, modules, compression):
    _, _, listening, folder = served
    done = subprocess.run(
        ["node", str(_SCRIPT), str(listening.grpc_port), TOKEN, str(_PROTO)],
        env={**os.environ, "NODE_PATH": str(modules), "COMPRESSION": compression},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    row = (np.arange(4) % 7 - 3).astype(np.float32)[None]
    first = float(oracle(folder / "bundle", row)[0, 0])
    assert [one for one in told["small"] if "code" in one] == []
    assert len(told["small"]) == 500
    assert all(one["rows"] == 1 and abs(one["first"] - first) < 1e-5 for one in told["small"])
    assert [one for one in told["large"] if "code" in one] == []
    assert [one["rows"] for one in told["large"]] == [3000, 2500, 2000]
    assert told["late"]["code"] == _DEADLINE_EXCEEDED
    assert told["refused"]["code"] == _UNAUTHENTICATED
