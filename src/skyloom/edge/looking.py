"""What a device shows of itself, without a cloud and without disturbing who serves."""

import msgspec

from skyloom.edge.deployment import Installed
from skyloom.edge.home import Home, load_deployment


class EdgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A device as its folder tells it. ``outbox_bytes``: held on disk until the cloud has it; a little more than what still waits."""

    name: str
    device: str
    cloud: str
    project: str
    serving: str
    before: str
    outcome: str
    message: str
    ports: str
    outbox_bytes: int


def status_of(home: Home, *, as_json: bool) -> str:
    """The folder in words, or as JSON. Raises `NotJoined`."""
    file, now_is = home.read(), load_deployment(home.deployment)
    told = EdgeStatus(
        name=file.name,
        device=file.device,
        cloud=file.url,
        project=file.project,
        serving=_named(now_is.current),
        before=_named(now_is.previous),
        outcome=now_is.outcome.value,
        message=now_is.message,
        ports=home.ports(),
        outbox_bytes=home.outbox_bytes(),
    )
    if as_json:
        return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()
    pairs = {name: str(getattr(told, name)) for name in told.__struct_fields__ if getattr(told, name) not in ("", 0)}
    return "\n".join(f"{name.replace('_', ' '):14}{value}" for name, value in pairs.items())


def _named(made: Installed | None) -> str:
    return f"{made.model}:{made.label}" if made else ""
