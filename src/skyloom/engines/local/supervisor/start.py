"""The first program of a task that needs something made before it can run: makes it, then becomes the task's own program.

It is the task's main process already: limits, output, stopping and the end are the supervisor's business, as for any other
program. What cannot be made ends the task with the reason ``launch_failed`` and the evidence in its message.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from . import building, cache
from .building import BuildFailed, say
from .files import complete_environment, write_durable

VARIABLES = ".start"  # in the folder of secrets: the machine's settings for package indexes may hold passwords


def main(folder: str) -> int:
    """Prepare what the plan in ``folder`` says, and replace this process by its program. Returns only what went wrong."""
    with open(f"{folder}/plan.json", "rb") as file:
        plan = json.loads(file.read())
    start, variables = plan["start"], _variables(folder)
    if start["python"]:
        try:
            _environment(start["python"], variables)
        except (BuildFailed, OSError) as error:
            return _refuse(folder, "the Python environment could not be built", error)
    for mount in start["mounts"]["all"]:
        from .mounting import FetchFailed  # the others do not pay for it

        try:
            _mount(mount, start["mounts"], plan["environment"])
        except (FetchFailed, OSError) as error:
            return _refuse(folder, f"{mount['subject']} could not be mounted", error)
    argv = start["argv"]
    try:
        os.execvpe(argv[0], argv, complete_environment(plan))  # noqa: S606 (no shell is what is wanted)
    except OSError as error:
        return _refuse(folder, f"cannot run {argv[0]!r}", error.strerror)


def _environment(plan: dict[str, Any], variables: dict[str, str]) -> None:
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

    cache.take(plan["root"], key, make, waits, plan["max_bytes"])


def _mount(mount: dict[str, Any], kept: dict[str, Any], environment: dict[str, str]) -> None:
    """Have the files of a mount on this machine, and a link to them in the task's folder."""
    from . import mounting

    subject, key = mount["subject"], mount["key"]

    def make(place: str) -> None:
        say(f"fetching {subject}")
        began = time.monotonic()
        whole = {**kept["variables"], **_ours(environment)}
        size = mounting.fetch_all(f"{place}/files", mount["files"], whole, kept["base"])
        say(f"{subject}: {size / 2**20:.1f} MiB in {time.monotonic() - began:.1f} s; kept for other tasks")

    def waits() -> None:
        say(f"waiting for {subject}, which another task fetches")

    cache.take(kept["root"], key, make, waits, kept["max_bytes"])
    os.makedirs(kept["folder"], mode=0o700, exist_ok=True)
    os.symlink(f"{kept['root']}/{key}/files", f"{kept['folder']}/{mount['name']}")


def _ours(environment: dict[str, str]) -> dict[str, str]:
    """What the task was told by Skyloom; the user's own variables are not for the pool's Python."""
    return {name: value for name, value in environment.items() if name.startswith("SKYLOOM_") or name == "TMPDIR"}


def _variables(folder: str) -> dict[str, str]:
    path = f"{folder}/secrets/{VARIABLES}"
    with open(path, "rb") as file:
        variables = json.loads(file.read())
    os.unlink(path)
    return {str(name): str(value) for name, value in variables.items()}


def _refuse(folder: str, what: str, why: object) -> int:
    say(what)
    write_durable(f"{folder}/error.json", {"message": f"{what}: {why}", "launch": True})
    return 126
