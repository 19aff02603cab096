"""Mounts of jobs: what a job asks for by name becomes exactly one version, when it is submitted and for ever."""

from collections.abc import Callable, Collection

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.ports.engine import Ability
from skyloom.ports.environment import Mount
from skyloom.ports.store import Snapshot
from skyloom.rooms.jobs.model import JobSpec

Resolve = Callable[[Snapshot, str, str, str], Mount]
"""(view, name, reference, project) → the mount; raises `NotFound` for what the project does not have."""


class MountRefused(InvalidInput):
    """The pool cannot give a task folders to read."""


def check(spec: JobSpec, abilities: Collection[Ability]) -> None:
    """Raise `MountRefused` when the pool cannot mount."""
    if spec.mounts and Ability.MOUNTS not in abilities:
        raise MountRefused(
            "This pool cannot mount datasets and models.",
            next_action="Leave the mounts out and download what the job reads, or use another pool.",
        )


def none_known(view: Snapshot, name: str, reference: str, project: str) -> Mount:
    """The `Resolve` of a cloud that has neither datasets nor models."""
    raise MountRefused(f"{reference} cannot be mounted here.", next_action="Leave the mount out.")


def resolved(view: Snapshot, spec: JobSpec, project: str, resolve: Resolve) -> tuple[Mount, ...]:
    """All mounts of a spec. Raises what ``resolve`` raises."""
    return tuple(resolve(view, name, reference, project) for name, reference in sorted(spec.mounts.items()))


def pinned(spec: JobSpec, mounts: Collection[Mount]) -> JobSpec:
    """A spec that names the versions it was resolved to: doing it again later gives the same."""
    if not mounts:
        return spec
    return msgspec.structs.replace(spec, mounts={mount.name: mount.subject for mount in mounts})
