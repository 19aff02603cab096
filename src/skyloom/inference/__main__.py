"""``python -m skyloom.inference PLAN.json [PYTHON]``: serve one replica until SIGTERM. Exit codes: `rooms.serving.plan.ExitCode`.

A service of your own Python has a process of its own beside this one; PYTHON runs it.
"""

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from skyloom.core.errors import SkyloomError
from skyloom.inference.model import BundleRefused, ModelFailed
from skyloom.inference.ports import PortTaken
from skyloom.inference.reduce import TensorMissing
from skyloom.inference.server import PlanRefused, read_plan, serve
from skyloom.inference.services.calls import ServiceUnfit
from skyloom.rooms.serving.plan import ExitCode
from skyloom.settings import TaskEnvironment

_EXIT_CODES: tuple[tuple[type[SkyloomError], ExitCode], ...] = (
    (PlanRefused, ExitCode.PLAN_REFUSED),
    (BundleRefused, ExitCode.BUNDLE_REFUSED),
    (ModelFailed, ExitCode.BUNDLE_REFUSED),
    (TensorMissing, ExitCode.BUNDLE_REFUSED),
    (ServiceUnfit, ExitCode.BUNDLE_REFUSED),
    (PortTaken, ExitCode.PORT_TAKEN),
)


def main(arguments: list[str]) -> int:
    """Serve; return the exit code."""
    if len(arguments) not in (1, 2):
        print("usage: python -m skyloom.inference PLAN.json [PYTHON]", file=sys.stderr)
        return ExitCode.PLAN_REFUSED
    path = Path(arguments[0]).absolute()
    try:
        plan = read_plan(path)
        if plan.python and len(arguments) == 1 and plan.python != sys.executable:
            # Started by the service's own environment: that is for its process, the data plane runs with the pool's packages.
            os.execv(plan.python, [plan.python, "-m", "skyloom.inference", str(path), sys.executable])  # noqa: S606
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(plan, path.parent, TaskEnvironment.read(), (arguments[1:] or [sys.executable])[0]))
    except SkyloomError as error:
        print(f"skyloom.inference: {error}", file=sys.stderr)
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
    except OSError as error:
        print(f"skyloom.inference: the request log cannot be opened: {error.strerror}.", file=sys.stderr)
        return ExitCode.LOG_REFUSED
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
