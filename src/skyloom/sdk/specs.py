"""From words of Python to the description of a job: files uploaded, sizes read, ids of what comes first made conditions."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from skyloom.core.resources import Resources, parse_bytes
from skyloom.ports.engine import Command, Entry, PythonFile
from skyloom.rooms.jobs.model import Dependency, JobSpec
from skyloom.sdk.environment import spec_fields
from skyloom.sdk.files import upload_all
from skyloom.sdk.transport import Transport


def job_spec(
    transport: Transport,
    command: Sequence[str] | None = None,
    *,
    script: str | Path | None = None,
    args: Sequence[str] = (),
    include: Mapping[str, str | Path] | None = None,
    cpus: float = 1.0,
    gpus: int = 0,
    memory: str = "1GiB",
    after: Iterable[str | Dependency] = (),
    **options: Any,
) -> JobSpec:
    """Describe a command, or a Python file with the files it needs, which are uploaded. Arguments as in `JobCalls.run`."""
    local = dict(include or {})
    if script is not None:
        local[Path(script).name] = script
        entry: Entry = PythonFile(path=Path(script).name, args=tuple(args))
    else:
        entry = Command(argv=tuple(command or ()))
    return JobSpec(
        entry=entry,
        files=upload_all(transport, local),
        resources=Resources(cpus=cpus, gpus=gpus, memory_bytes=parse_bytes(memory)),
        after=dependencies(after),
        **spec_fields(options),
    )


def dependencies(after: Iterable[str | Dependency]) -> tuple[Dependency, ...]:
    """Ids of jobs and arrays that have to succeed first, or whole conditions."""
    return tuple(one if isinstance(one, Dependency) else Dependency(id=one) for one in after)
