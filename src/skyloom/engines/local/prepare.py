"""From a task's plan to its folder: files copied, secrets written, program found, and everything contained.

What the user got wrong is a `LaunchRefused`; what the machine lacks stays an ``OSError``.
"""

import errno
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from skyloom.core import digests
from skyloom.engines.local import environment
from skyloom.engines.local.folder import ShimPlan, TaskFolder
from skyloom.engines.local.pythons import PlannedPython, Pythons, PythonUnusable
from skyloom.engines.local.supervisor import processes
from skyloom.engines.local.supervisor.files import HIDDEN_VARIABLES
from skyloom.engines.local.supervisor.start import VARIABLES
from skyloom.ports.engine import Command, PythonCall, PythonFile, PythonModule, TaskPlan
from skyloom.ports.environment import Mount

SUPERVISOR = Path(processes.__file__).parent
_MOUNT_LAYOUT = 1  # another number when a folder of an older Skyloom must not be used
_SECRET_NAME = re.compile(r"[A-Za-z0-9_]{1,80}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Place(NamedTuple):
    """A task's place in its gang, and what the gang holds.

    Attributes:
        port, host: where rank 0 is met.
        gpus: all that the gang's tasks on this machine hold, in rank order.
        local_rank, local_world_size: place among the gang's tasks on this machine, and how many they are.
        interface: the network interface by which this machine meets the others; empty leaves it to the libraries.
    """

    rank: int
    world_size: int
    port: int
    gpus: tuple[int, ...]
    local_rank: int = 0
    local_world_size: int = 1
    host: str = "127.0.0.1"
    interface: str = "lo"


class LaunchRefused(Exception):
    """A task cannot be started; the text says what is wrong with its plan."""


@dataclass(frozen=True)
class Host:
    """What every task of an engine gets from the machine.

    Attributes:
        python: interpreter of user code.
        variables: the clean base environment.
        pythons: plans environments of jobs that bring one.
        mounts: folder of the datasets and models that tasks read, and the disk that they may take.
        lease: file that says until when tasks may run here; empty for ever.
    """

    python: str
    variables: Mapping[str, str]
    pythons: Pythons
    mounts: Path
    max_mount_bytes: int
    lease: str = ""


def prepare(folder: TaskFolder, home: TaskFolder, task: TaskPlan, host: Host, place: Place) -> None:
    """Fill a new folder, which will be renamed to ``home``. Raises `LaunchRefused`, or ``OSError`` for the disk."""
    planned = _planned_python(task, host)
    variables = environment.inside(host.variables, planned) if planned else host.variables
    for relative, source in task.files.items():
        _place(folder.work / _contained(relative), Path(source), relative)
    for name, content in task.secret_files.items():
        _write_secret(folder, name, content)
    if task.secret_variables:
        _write_variables(folder, HIDDEN_VARIABLES, _checked(task.secret_variables))
    _make_shared(task.shared_folder)
    marker = secrets.token_hex(16)
    temporary = str(Path(variables["TMPDIR"]) / f"skyloom-{marker[:12]}")
    complete = {
        **variables,
        **environment.limits(task.resources, place.gpus),
        **_checked(task.environment),
        **{f"SKYLOOM_{name.upper()}_FILE": str(home.secrets / name) for name in task.secret_files},
        **_rendezvous(place),
        "TMPDIR": temporary,
        "SKYLOOM_TASK_ID": task.task_id,
        "SKYLOOM_TASK_FOLDER": str(home.path),
        "SKYLOOM_SHARED_FOLDER": task.shared_folder,
        "SKYLOOM_MOUNTS": str(home.mounts),
        processes.MARKER_VARIABLE: marker,
    }
    python = planned.python if planned else host.python
    argv, inside = _program(task, home, folder, python, complete)
    start: dict[str, Any] | None = None
    if _is_made_first(task):
        start = {
            "python": planned.start if planned else None,
            "mounts": _planned_mounts(task, home, host),
            "argv": argv,
        }
        _write_variables(folder, VARIABLES, host.pythons.build_variables(temporary) if planned else {})
    folder.write_plan(
        ShimPlan(
            task_id=task.task_id,
            argv=(host.python, "-I", "-S", str(SUPERVISOR), "start", str(home.path)) if start else argv,
            python=inside,
            cwd=str(home.work),
            environment=complete,
            secret_variables=str(home.secrets / HIDDEN_VARIABLES) if task.secret_variables else "",
            temporary=temporary,
            marker=marker,
            memory_bytes=task.resources.memory_bytes,
            grace_s=task.grace_s,
            max_duration_s=task.max_duration_s,
            max_log_bytes=task.max_log_bytes,
            port=place.port,
            gpus=place.gpus,
            start=start,
            lease=host.lease,
        )
    )


def _rendezvous(place: Place) -> dict[str, str]:
    group = environment.rendezvous(place.rank, place.world_size, place.host, place.port)
    local = {"LOCAL_RANK": str(place.local_rank), "LOCAL_WORLD_SIZE": str(place.local_world_size)}
    return {**group, **local, **environment.network(place.interface)}


def _planned_python(task: TaskPlan, host: Host) -> PlannedPython | None:
    if task.python is None:
        return None
    try:
        return host.pythons.plan(task.python)
    except PythonUnusable as error:
        raise LaunchRefused(str(error)) from None


def _is_made_first(task: TaskPlan) -> bool:
    """The task needs something that has to be made or fetched before its program can run."""
    return task.python is not None or bool(task.mounts)


def _planned_mounts(task: TaskPlan, home: TaskFolder, host: Host) -> dict[str, Any]:
    mounts = [
        {
            "name": mount.name,
            "subject": mount.subject,
            "key": _mount_key(mount),
            "files": [msgspec.to_builtins(file) for file in mount.files],
        }
        for mount in task.mounts
    ]
    kept = {"root": str(host.mounts), "max_bytes": host.max_mount_bytes}
    return {**kept, "folder": str(home.mounts), "base": host.python, "all": mounts, "variables": dict(host.variables)}


def _mount_key(mount: Mount) -> str:
    """What names the folder of a mount: the same files have the same, whoever mounts them and by whatever name."""
    told = sorted((file.path, file.digest, file.is_rows) for file in mount.files)
    return digests.of_value([_MOUNT_LAYOUT, told]).removeprefix("sha256:")[:32]


def _write_variables(folder: TaskFolder, name: str, variables: Mapping[str, str]) -> None:
    file = folder.secrets / name
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(json.dumps(dict(variables)))


def _contained(relative: str) -> Path:
    """A path that stays below the working folder."""
    path = Path(relative)
    if not relative or "\0" in relative or path.is_absolute() or ".." in path.parts or not path.parts:
        raise LaunchRefused(f"the file {relative!r} would lie outside of the working folder; give a path below it")
    return path


def _place(target: Path, source: Path, relative: str) -> None:
    try:
        _copy(target, source, relative)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise LaunchRefused(f"the file {relative!r} has a longer name than this machine's disk takes") from None


def check_source(source: Path, relative: str) -> None:
    """Raises `LaunchRefused` when there are no bytes to place."""
    if not source.is_absolute() or not source.is_file():
        raise LaunchRefused(f"the file {relative!r} cannot be placed: {source} is not an absolute path of a file")


def _copy(target: Path, source: Path, relative: str) -> None:
    check_source(source, relative)
    if target.exists():
        raise LaunchRefused(f"the file {relative!r} is given twice")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise LaunchRefused(f"the file {relative!r} needs a folder where there is a file") from None
    try:
        shutil.copyfile(source, target)
    except PermissionError as error:
        raise LaunchRefused(f"the file {relative!r} cannot be placed: {error}") from None
    with target.open("rb") as file:
        is_program = file.read(2) == b"#!" or bool(source.stat().st_mode & 0o100)
    target.chmod(0o700 if is_program else 0o600)


def _write_secret(folder: TaskFolder, name: str, content: str) -> None:
    if not _SECRET_NAME.fullmatch(name):
        raise LaunchRefused(f"{name!r} is no name for a secret file; use letters, digits and underscores")
    file = folder.secrets / name
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(content)


def _make_shared(path: str) -> None:
    if not path:
        return
    if not Path(path).is_absolute():
        raise LaunchRefused(f"the shared folder {path!r} is not an absolute path")
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise LaunchRefused(f"the shared folder cannot be made: {error}") from None


def _checked(variables: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in variables.items():
        if not _VARIABLE_NAME.fullmatch(name) or "\0" in value:
            raise LaunchRefused(f"{name!r} cannot be an environment variable")
    return variables


def _program(
    task: TaskPlan, home: TaskFolder, folder: TaskFolder, python: str, variables: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, Any] | None]:
    """The program for a cold start, and for a warm one where that is possible."""
    entry = task.entry
    if any("\0" in word for word in _words(entry)):
        raise LaunchRefused("an argument holds a zero byte")
    is_made_first = _is_made_first(task)
    if isinstance(entry, Command):
        # A program that its own environment brings cannot be looked for before it is built: the start of the task finds it, or says so.
        return (entry.argv if task.python is not None and entry.argv else _command(entry, folder, variables)), None
    warm = task.warm and environment.allows_warm({**task.environment, **task.secret_variables}) and not is_made_first
    if isinstance(entry, PythonModule):
        inside: dict[str, Any] = {"kind": "module", "module": entry.module, "args": entry.args}
        return (python, "-m", entry.module, *entry.args), inside if warm else None
    relative = _contained(entry.path)
    if not (folder.work / relative).is_file():
        raise LaunchRefused(f"the Python file {entry.path!r} is not among the task's files: {_listed(task)}")
    path = str(home.work / relative)
    if isinstance(entry, PythonFile):
        return (python, path, *entry.args), {"kind": "file", "path": path, "args": entry.args} if warm else None
    call = {
        "kind": "call",
        "path": path,
        "function": entry.function,
        "arguments": entry.arguments.decode(),
        "result": str(home.result),
    }
    # A cold call reads the same part of the plan, so it is there also when the start may not be warm.
    return (python, str(SUPERVISOR), "call", str(home.path)), {**call, "cold": not warm}


def _words(entry: Command | PythonFile | PythonModule | PythonCall) -> tuple[str, ...]:
    if isinstance(entry, Command):
        return entry.argv
    if isinstance(entry, PythonModule):
        return (entry.module, *entry.args)
    return (entry.path, *entry.args) if isinstance(entry, PythonFile) else (entry.path, entry.function)


def _command(entry: Command, folder: TaskFolder, variables: Mapping[str, str]) -> tuple[str, ...]:
    if not entry.argv or not entry.argv[0]:
        raise LaunchRefused("the command is empty")
    program = entry.argv[0]
    found = shutil.which(str(folder.work / program) if "/" in program else program, path=variables["PATH"])
    if found is None:
        place = "in the working folder" if "/" in program and not program.startswith("/") else "on this machine"
        raise LaunchRefused(
            f"the program {program!r} was not found {place}, or may not be executed (PATH={variables['PATH']})"
        )
    return entry.argv


def _listed(task: TaskPlan) -> str:
    return ", ".join(sorted(task.files)[:20]) or "it has none"
