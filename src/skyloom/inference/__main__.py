"""``python -m skyloom.inference PLAN.json``: serve one replica until SIGTERM. Exit codes: `rooms.serving.plan.ExitCode`."""

import asyncio
import sys
from pathlib import Path

import uvloop

from skyloom.core.errors import SkyloomError
from skyloom.inference.model import BundleRefused, ModelFailed
from skyloom.inference.ports import PortTaken
from skyloom.inference.reduce import TensorMissing
from skyloom.inference.server import PlanRefused, read_plan, serve
from skyloom.rooms.serving.plan import ExitCode
from skyloom.settings import TaskEnvironment

_EXIT_CODES: tuple[tuple[type[SkyloomError], ExitCode], ...] = (
    (PlanRefused, ExitCode.PLAN_REFUSED),
    (BundleRefused, ExitCode.BUNDLE_REFUSED),
    (ModelFailed, ExitCode.BUNDLE_REFUSED),
    (TensorMissing, ExitCode.BUNDLE_REFUSED),
    (PortTaken, ExitCode.PORT_TAKEN),
)


def main(arguments: list[str]) -> int:
    """Serve; return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m skyloom.inference PLAN.json", file=sys.stderr)
        return ExitCode.PLAN_REFUSED
    path = Path(arguments[0]).absolute()
    try:
        plan = read_plan(path)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(plan, path.parent, TaskEnvironment.read()))
    except SkyloomError as error:
        print(f"skyloom.inference: {error}", file=sys.stderr)
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
    except OSError as error:
        print(f"skyloom.inference: the request log cannot be opened: {error.strerror}.", file=sys.stderr)
        return ExitCode.LOG_REFUSED
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
