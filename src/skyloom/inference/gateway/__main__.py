"""``python -m skyloom.inference.gateway PLAN.json``: stand before endpoints until SIGTERM. Exit codes: `rooms.serving.plan.ExitCode`."""

import asyncio
import sys
from pathlib import Path

import uvloop

from skyloom.core.errors import SkyloomError
from skyloom.inference.gateway.process import GatewayPlanRefused, GatewayProcess, read_plan
from skyloom.rooms.serving.plan import ExitCode
from skyloom.rooms.serving.routes import GatewayPlan
from skyloom.settings import TaskEnvironment


def main(arguments: list[str]) -> int:
    """Serve; return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m skyloom.inference.gateway PLAN.json", file=sys.stderr)
        return ExitCode.PLAN_REFUSED
    path = Path(arguments[0]).absolute()
    try:
        plan = read_plan(path)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(plan, path.parent))
    except SkyloomError as error:
        print(f"skyloom.inference.gateway: {error}", file=sys.stderr)
        return ExitCode.PLAN_REFUSED if isinstance(error, GatewayPlanRefused) else 1
    return ExitCode.OK


async def _serve(plan: GatewayPlan, folder: Path) -> None:
    await GatewayProcess(plan, folder, TaskEnvironment.read()).run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
