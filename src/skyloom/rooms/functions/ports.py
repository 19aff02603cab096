"""What functions need stored, and how a call leaves the control plane."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from skyloom.ports.store import Collection, Record
from skyloom.rooms.functions.model import CloudFunction, Invocation


class AnswerRoom(Record, frozen=True, kw_only=True):
    """How much the ended calls of a project hold together. Its id is the project."""

    num_bytes: int


FUNCTIONS = Collection("functions", CloudFunction, indexes=("name",), unique=("name",))
INVOCATIONS = Collection(
    "invocations",
    Invocation,
    indexes=("function", "function_id", "state", "next_at", "ended_at", "key", "room"),
    ordered=(("state", "next_at"), ("room", "ended_at")),
)
ANSWER_ROOMS = Collection("answer_rooms", AnswerRoom)

COLLECTIONS = (FUNCTIONS, INVOCATIONS, ANSWER_ROOMS)


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One call that is to be made.

    Attributes:
        id: of the invocation, and of this attempt.
        url: of the method, on this machine.
        timeout_s: for all of it.
        max_bytes: of its answer that are read.
    """

    id: str
    url: str
    token: str
    body: bytes
    timeout_s: float
    max_bytes: int


class ErrandResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a call.

    Attributes:
        status: of HTTP, 0 for none.
        content: of the answer, cut one byte behind the most that was asked for.
        problem: why there is no answer.
    """

    id: str
    status: int
    content: bytes = b""
    is_json: bool = True
    problem: str = ""


class Errands(Protocol):
    """Makes calls to the model servers beside the loop. Thread-safe; nothing here blocks."""

    done: Callable[[], None]
    """Called, on any thread, whenever there is a result."""

    def begin(self, errand: Errand) -> None:
        """Make a call; its result stands in `results`, later. An id that is on its way is not begun twice."""
        ...

    def results(self) -> list[ErrandResult]:
        """What came back since the last look."""
        ...

    def open(self) -> frozenset[str]:
        """Ids of calls that were begun and whose result nobody has taken."""
        ...

    def close(self) -> None:
        """Begin nothing more, and wait for nothing."""
        ...
