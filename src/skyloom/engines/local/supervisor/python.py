"""Run user Python inside an interpreter that is already there, as if it had just started."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import runpy
import sys
import threading
import types
from collections.abc import Callable

MAX_RESULT_BYTES = 16 * 2**20


def main(folder: str) -> int:
    """Cold start of a function call: run what the plan in ``folder`` says and return the exit code."""
    with open(os.path.join(folder, "plan.json"), "rb") as file:
        plan = json.loads(file.read())
    return run({**plan, "environment": None})


def run(plan: dict[str, object]) -> int:
    """Run a plan's Python part; returns the exit code. A traceback goes to stderr, without our own frames."""
    python = plan["python"]
    assert isinstance(python, dict)
    environment = plan["environment"]
    if isinstance(environment, dict):
        _enter_environment(environment)
    kind = str(python["kind"])
    runner: Callable[[dict[str, object]], None] = {"file": run_file, "module": run_module, "call": run_call}[kind]
    return _guarded(runner, python)


def _guarded(runner: Callable[[dict[str, object]], None], python: dict[str, object]) -> int:
    try:
        runner(python)
    except SystemExit as end:
        return _exit_code(end.code)
    except BaseException as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_code.co_filename in _OURS:
            traceback = traceback.tb_next
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


_OURS = {
    __file__,
    runpy.__file__,
    "<frozen runpy>",
    "<frozen importlib._bootstrap>",
    "<frozen importlib._bootstrap_external>",
}


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def run_file(python: dict[str, object]) -> None:
    """Run a file as ``__main__``, in a module that stays, as the interpreter does."""
    path = str(python["path"])
    sys.argv = [path, *_strings(python["args"])]
    sys.path.insert(0, os.path.dirname(path))
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    module.__dict__["__cached__"] = None
    sys.modules["__main__"] = module
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102 (running the user's file is the job)


def run_module(python: dict[str, object]) -> None:
    """Run a module as ``__main__``, like ``python -m``."""
    sys.argv = ["-m", *_strings(python["args"])]
    sys.path.insert(0, os.getcwd())
    # A warm process has it, and runpy would warn in the task's own output.
    sys.modules.pop(f"{python['module']}.__main__", None)
    runpy.run_module(str(python["module"]), run_name="__main__", alter_sys=True)


def run_call(python: dict[str, object]) -> None:
    """Import a file, call one function with JSON arguments, and leave its JSON result, whole or not at all."""
    path, function = str(python["path"]), str(python["function"])
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(path))
    name = os.path.basename(path).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    arguments = json.loads(str(python["arguments"]))
    answer = getattr(module, function)(*arguments.get("args", ()), **arguments.get("kwargs", {}))
    _leave(str(python["result"]), answer)


def _leave(path: str, answer: object) -> None:
    content = json.dumps(answer).encode()
    if len(content) > MAX_RESULT_BYTES:
        raise ValueError(
            f"the result has {len(content)} bytes, more than {MAX_RESULT_BYTES}; write it to a file and return its path"
        )
    with open(f"{path}.new", "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)


def _strings(values: object) -> list[str]:
    assert isinstance(values, list)
    return [str(value) for value in values]


def _enter_environment(environment: dict[str, str]) -> None:
    """Take the task's variables, and forget what the process that we were forked from drew or counted."""
    os.environ.clear()
    os.environ.update(environment)
    threads = int(environment.get("OMP_NUM_THREADS", "1"))
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None:
        torch.set_num_threads(threads)
    if numpy is not None:
        numpy.random.seed()
        _set_blas_threads(threads)
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        multiprocessing.current_process().authkey = os.urandom(32)


def _set_blas_threads(threads: int) -> None:
    """numpy's OpenBLAS read its thread count when it was loaded; tell it the task's."""
    import ctypes

    with open("/proc/self/maps") as file:
        libraries = {line.split()[-1] for line in file if "openblas" in line and ".so" in line}
    for library in libraries:
        loaded = ctypes.CDLL(library)
        for name in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads"):
            setter = getattr(loaded, name, None)
            if setter is not None:
                setter(threads)
                break


def finish(code: int) -> None:
    """End a forked interpreter like a real one: threads joined, exit functions run, output flushed. Never returns."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = code or 120
    os._exit(code)
