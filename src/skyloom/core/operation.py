"""Operations: frozen requests that know their answer type, their right and their route.

The list of operations is the product's one interface. REST routes, OpenAPI, SDK methods, CLI verbs and the headings
of the reference are made from it or tested against it.
"""

import enum
import re
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, get_args

import msgspec

_PARAMETER = re.compile(r"{(\w+)}")
Answer = TypeVar("Answer")
Shown = TypeVar("Shown")
Ask = TypeVar("Ask", bound="type[Operation[Any]]")


class Right(enum.StrEnum):
    """What a caller needs to be allowed. Roles are sets of rights (``rooms/tenancy/rules.py``)."""

    READ = "read"
    WRITE = "write"
    RUN = "run"
    PREDICT = "predict"
    ADMIN = "admin"
    DEVICE = "device"  # to speak as one device
    JOIN = "join"  # to become one


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, where, and what they may do. Made by `tenancy` from a token and never by a face.

    Attributes:
        principal: user name, or the id of the task that speaks.
        project: the project the request is about; "" for operations outside of projects.
        scope: the project that the token opens, or "*" for all.
        task_id: set when a running task asks with its own token.
        token_id: the token it was; two tokens may have one name.
        device_id: set when a device asks with its own token, or somebody with its join code.
        because: id of the delivery of a trigger that the caller says he acts for; looked up, and never taken for granted.
    """

    principal: str
    project: str
    scope: str
    rights: frozenset[Right]
    task_id: str = ""
    token_id: str = ""
    device_id: str = ""
    because: str = ""

    @classmethod
    def inside(cls, principal: str, project: str) -> "Caller":
        """Somebody whom the control plane itself acts for, in one project: behind the door, where rights were looked at."""
        return cls(principal=principal, project=project, scope=project, rights=frozenset())

    @property
    def job_id(self) -> str:
        """The job whose task speaks; "" for anybody else."""
        return self.task_id.rsplit(".", 2)[0]

    def is_task_of(self, job_id: str) -> bool:
        """It is a task of this job that speaks."""
        return self.task_id.startswith(f"{job_id}.")


class Verb(enum.StrEnum):
    """The HTTP method an operation has."""

    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"


class Route(msgspec.Struct, frozen=True):
    """How one operation is known to the outside.

    Attributes:
        name: ``noun.verb``; the SDK method is the same two words.
        right: what the caller must hold.
        verb: HTTP method; a GET never changes anything.
        path: below ``/v1/projects/{project}`` unless ``global_`` is set; ``{field}`` takes a field of the request.
        global_: not inside a project.
        audited: changes leave an audit record; measurements, which are no decisions, do not.
        private: the request holds a secret, so what is kept of it is not even a plain digest, which could be guessed at.
    """

    name: str
    right: Right
    verb: Verb
    path: str
    answer: Any
    global_: bool = False
    audited: bool = True
    private: bool = False

    @property
    def full_path(self) -> str:
        """The path with its version and, inside a project, the project."""
        return ("/v1" if self.global_ else "/v1/projects/{project}") + self.path

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The fields of the request that stand in its path."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def has_body(self) -> bool:
        """The fields that are not in the path are a JSON body; otherwise they are the query."""
        return self.verb in (Verb.POST, Verb.PUT)

    @property
    def is_change(self) -> bool:
        """It may change something."""
        return self.verb is not Verb.GET


class Operation(
    msgspec.Struct, Generic[Answer], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Base of every request. Subclass with the answer type: ``class SubmitJob(Operation[Job])``."""

    route: ClassVar[Route]


def operation(
    name: str, right: Right, http: str, *, global_: bool = False, audited: bool = True, private: bool = False
) -> Callable[[Ask], Ask]:
    """Give an operation class its name, right and route (``"POST /jobs"``)."""

    def place(cls: Ask) -> Ask:
        verb, path = http.split(" ", 1)
        answer = next(get_args(base)[0] for base in cls.__orig_bases__ if get_args(base))  # type: ignore[attr-defined]
        cls.route = Route(name, right, Verb(verb), path, answer, global_, audited, private)
        return cls

    return place


class Page(msgspec.Struct, Generic[Answer], frozen=True, kw_only=True):
    """Some of a list, newest first.

    Attributes:
        items: at most the ``limit`` asked for.
        next_cursor: give it back as ``cursor`` for the rest; ``None`` at the end.
    """

    items: tuple[Answer, ...]
    next_cursor: str | None = None

    def shown(self, show: Callable[[Answer], Shown]) -> "Page[Shown]":
        """The same page with what is shown of each item in its place."""
        return Page(items=tuple(map(show, self.items)), next_cursor=self.next_cursor)


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of an operation that has nothing to show."""

    done: bool = True
