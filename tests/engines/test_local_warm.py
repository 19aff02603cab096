"""The warm pool: as clean as a cold start, faster, and never needed."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.core.resources import Resources
from skyloom.engines.local import LocalEngine
from skyloom.engines.local.supervisor import processes
from skyloom.ports.engine import EndReason, GangPlan, PythonFile, TaskPlan
from tests.contracts.engine_contract import log, one, program, until, wait

# What a process can see of itself. Lines differ between two starts only where they must.
PORTRAIT = """
import json, os, signal, sys, threading, warnings
fields = open("/proc/self/status").read().splitlines()
libc = 0b11 << 31  # signals 32 and 33 belong to the C library's threads
masks = {line.split(":")[0]: int(line.split()[1], 16) & ~libc for line in fields if line.startswith(("SigBlk", "SigIgn", "SigCgt"))}
print(json.dumps({
    "name": __name__, "argv": sys.argv[1:], "path": sys.path[1:], "cwd": os.path.basename(os.getcwd()),
    "file": os.path.basename(__file__), "spec": str(__spec__), "masks": masks, "umask": os.umask(0o022),
    "fds": sorted(os.listdir("/proc/self/fd")), "threads": threading.active_count(), "stdin": sys.stdin.read(),
    "environment": sorted(os.environ), "leader": os.getsid(0) == os.getpid() == os.getpgid(0),
    "unbuffered": sys.stdout.write_through, "globals": sorted(globals()), "main": sys.modules["__main__"].__dict__ is globals(),
    "tty": sys.stdout.isatty(), "nice": os.nice(0), "locale": sys.stdout.encoding,
}))
"""
# torch's own trap, with torchrun too: whatever still holds the process group when Python ends (a model among the module's names,
# the default arguments of a module that is imported after the group was made) leaves threads that can abort a finished program.
GLOO = """
import torch, torch.distributed as dist
import torch.distributed.nn.functional
from torch.nn.parallel import DistributedDataParallel
def step():
    total = torch.ones(3) * (dist.get_rank() + 1)
    dist.all_reduce(total)
    model = DistributedDataParallel(torch.nn.Linear(3, 1))
    model(torch.ones(2, 3)).sum().backward()
    print(total.tolist(), torch.get_num_threads(), flush=True)
dist.init_process_group("gloo")
step()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    engine = LocalEngine(tmp_path_factory.mktemp("pool"), warm=True)
    assert engine.wait_until_warm(60)
    yield engine
    engine.close()


def run(engine: LocalEngine, folder: Path, task_id: str, source: str, **more: object) -> bytes:
    files = program(folder, source)
    engine.launch(one(task_id, PythonFile(path="main.py", args=("a", "b")), files=files, **more))
    seen = wait(engine, task_id)
    assert seen.reason is EndReason.COMPLETED, (seen, log(engine, task_id))
    return log(engine, task_id)


WAS_WARM = "import sys; print('torch' in sys.modules)"


def test_warm_process_looks_like_a_cold_one(pool: LocalEngine, tmp_path: Path) -> None:
    warm, cold = (
        json.loads(run(pool, tmp_path, f"portrait-{warm}", PORTRAIT, warm=warm, resources=Resources(cpus=2)))
        for warm in (True, False)
    )
    warm["globals"] = [name for name in warm["globals"] if name in cold["globals"] or not name.startswith("__")]
    cold["globals"] = [name for name in cold["globals"] if name != "__annotations__"]
    assert warm == cold


def test_warm_start_has_the_imports_done_and_a_cold_one_has_not(pool: LocalEngine, tmp_path: Path) -> None:
    assert run(pool, tmp_path, "is-warm", WAS_WARM) == b"True\n"
    assert run(pool, tmp_path, "is-cold", WAS_WARM, warm=False) == b"False\n"
    assert run(pool, tmp_path, "is-cold-too", WAS_WARM, environment={"PYTHONHASHSEED": "1"}) == b"False\n"


def test_threads_follow_the_tasks_cpus(pool: LocalEngine, tmp_path: Path) -> None:
    source = "import os, torch; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'], 'OPENBLAS_NUM_THREADS' in os.environ)"
    assert run(pool, tmp_path, "cpus-1", source, resources=Resources(cpus=0.5)) == b"1 1 False\n"
    assert run(pool, tmp_path, "cpus-2", source, resources=Resources(cpus=2)) == b"2 2 False\n"
    assert run(pool, tmp_path, "own", source, environment={"OMP_NUM_THREADS": "2"}) == b"2 2 False\n"


def test_random_numbers_differ_between_tasks(pool: LocalEngine, tmp_path: Path) -> None:
    source = "import random, numpy, tempfile, multiprocessing\nprint(random.random(), numpy.random.rand(), tempfile.mktemp(), "
    source += "multiprocessing.current_process().authkey)"
    first, second = (run(pool, tmp_path, f"random-{name}", source).split(b" ", 3) for name in "ab")
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_exit_functions_threads_and_output_finish_as_usual(pool: LocalEngine, tmp_path: Path) -> None:
    source = """
import atexit, sys, threading, time
atexit.register(lambda: print("exit function"))
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.stdout.write("no newline ")
sys.exit()
"""
    assert run(pool, tmp_path, "finish", source) == b"no newline thread\nexit function\n"


def test_exit_text_goes_to_the_log_with_code_one(pool: LocalEngine, tmp_path: Path) -> None:
    files = program(tmp_path, "import sys; sys.exit('because')")
    pool.launch(one("because", PythonFile(path="main.py"), files=files))
    assert wait(pool, "because").exit_code == 1
    assert log(pool, "because") == b"because\n"


def test_pool_that_dies_is_done_without(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=True)
    assert engine.wait_until_warm(60)
    (zygote,) = (pid for pid in processes.children_of(os.getpid()) if _is_pool_of(pid, tmp_path))
    os.kill(zygote, signal.SIGKILL)
    assert run(engine, tmp_path, "t", WAS_WARM) == b"False\n"
    engine.close()


def test_pool_that_is_not_ready_is_not_waited_for(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=True)
    assert run(engine, tmp_path, "t", WAS_WARM) == b"False\n"
    engine.close()


def test_close_ends_the_pool_and_not_the_tasks(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=True)
    assert engine.wait_until_warm(60)
    files = program(tmp_path, "import time; print('up', flush=True); time.sleep(1000)")
    engine.launch(one("t", PythonFile(path="main.py"), files=files))
    until(lambda: log(engine, "t") == b"up\n", "the first line")
    engine.close()
    assert not [pid for pid in processes.children_of(os.getpid()) if _is_pool_of(pid, tmp_path)]
    again = LocalEngine(tmp_path / "tasks", warm=False)
    again.stop(["t"])
    assert wait(again, "t").reason is EndReason.STOPPED
    again.close()


def _is_pool_of(pid: int, folder: Path) -> bool:
    """True for the pool's process; a zombie of another test has no descriptors."""
    output = Path(f"/proc/{pid}/fd/1")
    return output.is_symlink() and str(output.readlink()) == str(folder / "tasks" / ".warm.log")


@pytest.mark.parametrize("warm", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_ranks_reduce_with_gloo(pool: LocalEngine, tmp_path: Path, warm: bool) -> None:
    files = program(tmp_path, GLOO)
    names = [f"gloo-{warm}.{rank}" for rank in (0, 1)]
    plans = (TaskPlan(task_id=name, entry=PythonFile(path="main.py"), files=files, warm=warm) for name in names)
    pool.launch(GangPlan(gang_id="gloo", tasks=tuple(plans)))
    for name in names:
        assert wait(pool, name).reason is EndReason.COMPLETED, log(pool, name)
        assert log(pool, name) == b"[3.0, 3.0, 3.0] 1\n"
