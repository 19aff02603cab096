"""``skyloom deploy``, ``predict`` and ``endpoint`` against a real control plane."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skyloom.sdk.client import Client
from tests.control_plane import ControlPlane
from tests.e2e.test_serving import register
from tests.inference.serving import oracle, toy_rows, write_bundle
from tests.terminal import Terminal


@pytest.fixture(scope="module")
def cloud(cloud_process: ControlPlane) -> Iterator[Client]:
    with cloud_process.client() as client:
        yield client


@pytest.fixture(scope="module")
def bundle(cloud: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_bundle(tmp_path_factory.mktemp("model") / "bundle")
    register(cloud, folder)
    return folder


def test_model_is_deployed_asked_listed_and_stopped(terminal: Terminal, bundle: Path, tmp_path: Path) -> None:
    said = terminal("deploy", "toy:1", "--name", "shop", "--replicas", "1", "--cpus", "0.2", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["state"] == "ready"
    rows = toy_rows(2)
    expected = oracle(bundle, rows)
    (tmp_path / "rows.json").write_text(json.dumps({"x": rows.tolist()}))
    for asked in (json.dumps(rows.tolist()), f"@{tmp_path / 'rows.json'}"):
        said = terminal("predict", "shop", asked, "--json")
        assert said.code == 0, said.err
        assert np.allclose(json.loads(said.out)["outputs"]["scores"], expected, atol=1e-6)
    assert "shop" in terminal("endpoint", "list").out
    assert "ready" in terminal("endpoint", "show", "shop").out
    assert terminal("endpoint", "stop", "shop").code == 0


def test_down_stop_jobs_ends_endpoints_too(control_plane: ControlPlane, tmp_path: Path) -> None:
    with control_plane.client() as cloud:
        register(cloud, write_bundle(tmp_path / "bundle"))
        cloud.endpoints.deploy("toy", num_replicas=1, cpus=0.2)
        cloud.endpoints.wait("toy", timeout_s=60)
    command = [sys.executable, "-m", "skyloom.cli", "down", "--stop-jobs", "--home", str(control_plane.home), "--json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(said.stdout)["live_jobs"] == 0
    control_plane.wait()
    control_plane.start().ready()
    with control_plane.client() as cloud:
        assert cloud.jobs.list(live=True).items == ()
        assert cloud.endpoints.list(live=True).items == ()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("deploy", "nobody"), "nobody"),
        (("deploy", "toy:99"), "99"),
        (("deploy", "toy", "--cpus", "100000"), "100000"),
        (("deploy", "toy", "--memory", "much"), "much"),
        (("predict", "nobody", "[[1]]"), "nobody"),
        (("predict", "nobody", "[[1"), "JSON"),
        (("predict", "nobody", "@/no/such/file"), "/no/such/file"),
        (("endpoint", "show", "nobody"), "nobody"),
        (("endpoint", "stop", "nobody"), "nobody"),
    ],
)
def test_what_cannot_be_is_told_in_words(terminal: Terminal, bundle: Path, words: tuple[str, ...], told: str) -> None:
    said = terminal(*words)
    assert said.code not in (0, 1)
    assert told in said.err
    assert "Traceback" not in said.err
