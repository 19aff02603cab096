"""Pure decisions of tenancy: which role carries which rights, which token opens a door, how the audit chain is made."""

import base64
import hmac
from collections.abc import Iterable

import msgspec

from skyloom.core import digests
from skyloom.core.operation import Caller, Right, Route
from skyloom.rooms.tenancy.model import AuditEntry, NoToken, ProjectMissing, RightMissing, Role, Token

RIGHTS: dict[Role, frozenset[Right]] = {
    Role.VIEWER: frozenset({Right.READ}),
    Role.PREDICTOR: frozenset({Right.READ, Right.PREDICT}),
    Role.EDITOR: frozenset({Right.READ, Right.PREDICT, Right.WRITE, Right.RUN}),
    Role.ADMIN: frozenset(Right),
    Role.TASK: frozenset({Right.READ, Right.PREDICT, Right.WRITE}),
}
ALL_PROJECTS = "*"
_DEVICE, _JOIN = "sky_device.", "sky_join."
DEVICE_RIGHTS, JOIN_RIGHTS = frozenset({Right.DEVICE}), frozenset({Right.JOIN})


def caller(token: Token | None, project: str, now: float) -> Caller:
    """Who a token makes the caller in a project. Raises `NoToken` or `ProjectMissing`."""
    if token is None or not is_alive(token, now):
        raise NoToken(
            "The token is missing, unknown, expired or revoked.",
            next_action="Show a valid one: SKYLOOM_TOKEN, SKYLOOM_TOKEN_FILE, or the header 'Authorization: Bearer …'.",
        )
    if project and token.project not in (ALL_PROJECTS, project):
        raise project_missing(project)
    return Caller(
        principal=token.name, project=project, scope=token.project, rights=RIGHTS[token.role], token_id=token.id
    )


def is_alive(token: Token, now: float) -> bool:
    """Neither revoked nor expired."""
    return token.revoked_at is None and (token.expires_at is None or token.expires_at > now)


def may_predict(token: Token, now: float) -> bool:
    """The token opens the model servers of its project."""
    return is_alive(token, now) and Right.PREDICT in RIGHTS[token.role]


def project_missing(project: str) -> ProjectMissing:
    """The one answer for an absent project and for somebody else's."""
    return ProjectMissing(f"There is no project {project!r}.", next_action="List yours: skyloom project list.")


def permit(asked: Route, by: Caller) -> None:
    """Raise `RightMissing` unless the caller holds the right that the route needs, for every project if it is global."""
    permit_right(asked.right, by, asked.name)
    if asked.global_ and asked.is_change and by.scope != ALL_PROJECTS:
        raise RightMissing(
            f"{asked.name} needs a token for all projects; {by.principal}'s is for {by.scope!r}.",
            next_action="Ask the owner of this cloud to do it.",
        )


def permit_right(right: Right, by: Caller, what: str) -> None:
    """Raise `RightMissing` unless the caller holds the right, for what is no operation (metrics, blobs)."""
    if right not in by.rights:
        raise RightMissing(
            f"{what} needs the right {right.value!r}; {by.principal} does not have it.",
            next_action="Ask an admin of the project for a token with another role.",
        )


def token_secret(key: bytes, token_id: str) -> str:
    """The secret of a token: a MAC of its id, so that a repeated request can be answered though no secret is stored."""
    return "sky_" + base64.urlsafe_b64encode(hmac.digest(key, b"token:" + token_id.encode(), "sha256")).decode().rstrip(
        "="
    )


def invoker_secret(key: bytes, project: str) -> str:
    """What the control plane shows the model servers of a project when it calls functions itself: a MAC, so nothing needs storing."""
    mac = hmac.new(key, f"invoker:{project}".encode(), "sha256").hexdigest()
    return f"sky_invoker.{mac}"


def task_secret(key: bytes, task_id: str) -> str:
    """The token of one task: its id and a MAC, so nothing needs storing and it dies with the task (RFC 2104)."""
    mac = hmac.new(key, task_id.encode(), "sha256").hexdigest()
    return f"sky_task.{task_id}.{mac}"


def device_secret(key: bytes, device_id: str, generation: int) -> str:
    """The token of one device: its id, how often it has joined, and a MAC. Nothing of it is stored."""
    mac = hmac.new(key, f"device:{device_id}:{generation}".encode(), "sha256").hexdigest()
    return f"{_DEVICE}{device_id}.{generation}.{mac}"


def device_of_secret(key: bytes, secret: str) -> tuple[str, int] | None:
    """The device and generation that a device's token speaks for, or None when it is forged."""
    parts = secret.split(".")
    if len(parts) != 4 or not (parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 10):
        return None
    device_id, generation = parts[1], int(parts[2])
    is_ours = hmac.compare_digest(device_secret(key, device_id, generation).encode(), secret.encode())
    return (device_id, generation) if is_ours else None


def join_code(key: bytes, project: str, device_id: str, enrolment: int) -> str:
    """The join code of a device: where it joins, as which device, and 120 bits of a MAC that differ with each enrolment."""
    mac = hmac.new(key, f"join:{device_id}:{enrolment}".encode(), "sha256").digest()
    return f"{_JOIN}{project}.{device_id}.{base64.b32encode(mac[:15]).decode().lower()}"


def device_of_code(code: str) -> str:
    """The device that a join code names; "" when it is none. Says nothing about whether the code is good."""
    parts = code.rsplit(".", 2)
    return parts[1] if code.startswith(_JOIN) and len(parts) == 3 else ""


def keyed_digest(key: bytes, content: bytes) -> str:
    """A digest that nobody can make without the key, so that nobody can try out what was digested."""
    return "hmac-sha256:" + hmac.new(key, b"request:" + content, "sha256").hexdigest()


def task_of_secret(key: bytes, secret: str) -> str | None:
    """The task that a task token speaks for, or None when it is forged."""
    prefix, _, rest = secret.partition(".")
    task_id, _, _ = rest.rpartition(".")
    if prefix != "sky_task" or not hmac.compare_digest(task_secret(key, task_id).encode(), secret.encode()):
        return None
    return task_id


def chained(entry: AuditEntry, previous: str) -> AuditEntry:
    """Fill in the link and the hash of a new audit entry."""
    linked = msgspec.structs.replace(entry, previous=previous, hash="")
    return msgspec.structs.replace(linked, hash=digests.of_value(linked))


def broken_link(entries: Iterable[AuditEntry], previous: str = "") -> int | None:
    """Index of the first entry whose hash or link is wrong, or None when the chain holds. ``previous`` is the hash of the entry before
    them, where old ones went."""
    for index, entry in enumerate(entries):
        if entry.previous != previous or chained(entry, previous).hash != entry.hash:
            return index
        previous = entry.hash
    return None
