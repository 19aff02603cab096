"""The first program of a task that needs something made before it can run: makes it, then becomes the task's own program.

It is the task's main process already: limits, output, stopping and the end are the supervisor's business, as for any other
program. What cannot be made ends the task with the reason ``launch_failed`` and the evidence in its message.
"""

from __future__ import annotations

import json
import os
import time

from . import building, cache
from .building import BuildFailed, say
from .files import complete_environment, write_durable

VARIABLES = ".start"  # in the folder of secrets: the machine's settings for package indexes may hold passwords


def main(folder: str) -> int:
    """Prepare what the plan in ``folder`` says, and replace this process by its program. Returns only what went wrong."""
    with open(f"{folder}/plan.json", "rb") as file:
        plan = json.loads(file.read())
    start = plan["start"]
    try:
        if start["python"]:
            _environment(start["python"], _variables(folder))
    except BuildFailed as error:
        return _refuse(folder, f"the Python environment could not be built: {error}")
    except OSError as error:
        return _refuse(folder, f"the Python environment could not be built: {error}")
    argv = start["argv"]
    try:
        os.execvpe(argv[0], argv, complete_environment(plan))  # noqa: S606 (no shell is what is wanted)
    except OSError as error:
        return _refuse(folder, f"cannot run {argv[0]!r}: {error.strerror}")


def _environment(plan: dict[str, object], variables: dict[str, str]) -> None:
    key = str(plan["key"])
    began = time.monotonic()

    def make(place: str) -> None:
        asked = building.count(plan)
        what = f"{asked} requirement{'s' if asked != 1 else ''}" if asked else "its pyproject.toml"
        say(f"building the Python environment {key[:12]} ({what})")
        building.build(place, plan, variables)
        say(f"the environment is ready after {time.monotonic() - began:.1f} s; it is kept for other tasks")

    def waits() -> None:
        say(f"waiting for the Python environment {key[:12]}, which another task builds")

    cache.take(str(plan["root"]), key, make, waits, int(str(plan["max_bytes"])))


def _variables(folder: str) -> dict[str, str]:
    path = f"{folder}/secrets/{VARIABLES}"
    with open(path, "rb") as file:
        variables = json.loads(file.read())
    os.unlink(path)
    return {str(name): str(value) for name, value in variables.items()}


def _refuse(folder: str, message: str) -> int:
    say(message.partition(": error")[0])
    write_durable(f"{folder}/error.json", {"message": message, "launch": True})
    return 126
