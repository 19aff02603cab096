"""The warm process that model servers are forked from."""

import subprocess
import sys
from pathlib import Path

import pytest

from skyloom.engines.local import environment
from skyloom.engines.local.warm import SERVER_IMPORTS, WarmPool, WarmPools


@pytest.fixture
def variables() -> dict[str, str]:
    return environment.base(sys.executable)


def test_imports_of_a_model_server_start_no_thread(tmp_path: Path, variables: dict[str, str]) -> None:
    """A thread would be missing in what is forked: onnxruntime's, which waits for it, ends such a process by abort."""
    pool = WarmPool(sys.executable, variables, tmp_path / "log", SERVER_IMPORTS)
    try:
        assert pool.is_ready(60), (tmp_path / "log").read_text()
        assert pool.loaded == SERVER_IMPORTS, (tmp_path / "log").read_text()
        assert len(list(Path(f"/proc/{pool.pid}/task").iterdir())) == 1
    finally:
        pool.close()


def test_first_model_server_starts_cold_and_has_the_process_made(tmp_path: Path, variables: dict[str, str]) -> None:
    pools = WarmPools(sys.executable, variables, tmp_path)
    try:
        assert not (tmp_path / ".warm-serving.log").exists()
        assert pools.fork_shim(tmp_path, "skyloom.inference") is None
        assert (tmp_path / ".warm-serving.log").exists()
    finally:
        pools.close()


def test_next_engine_of_a_folder_with_model_servers_has_the_process_made_at_once(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    (tmp_path / ".warm-serving.log").touch()
    pools = WarmPools(sys.executable, variables, tmp_path)
    try:
        assert pools.servers_ready(60)
    finally:
        pools.close()


def test_package_that_the_warm_process_had_imported_is_run_without_a_warning() -> None:
    source = """
import ensurepip.__main__
from skyloom.engines.local.supervisor.python import run_module
run_module({"module": "ensurepip", "args": ["--version"]})
"""
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert (ran.stdout.startswith("pip"), ran.stderr) == (True, "")
