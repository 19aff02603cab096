"""The error tree. Every error a user can meet is here or is a subclass declared by the room that raises it.

    SkyloomError
     ├─ InvalidInput       the request cannot be meant: wrong shape, unknown column, impossible size
     ├─ Unauthenticated    no token, or one that is not known
     ├─ Denied             the token does not carry the right
     ├─ NotFound           no such thing, or it belongs to someone else (the two look the same)
     ├─ Conflict           it exists already, or its state does not allow this
     ├─ LimitExceeded      a bound or quota: smaller, fewer or later
     ├─ StorageFull        nothing was written because there is no room
     ├─ Unavailable        try again: starting, stopping, or a part is down
     └─ InternalError      a defect of ours, with an id to find it in the server's log

An error has a ``code`` (its class name in snake case, stable across the wire), a message that names the thing and
a next action. It knows no HTTP number and no exit code: each face translates ``category`` once.
"""

import enum
import re
from typing import Any, ClassVar

import msgspec


class Category(enum.StrEnum):
    """What a caller can do about an error; faces map this to status and exit codes."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    LIMIT = "limit"
    STORAGE_FULL = "storage_full"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An error as bytes: what REST answers and what the SDK turns back into an exception."""

    code: str
    category: Category
    message: str
    next_action: str


class SkyloomError(Exception):
    """Base of everything Skyloom raises on purpose.

    Args:
        message: names the thing and says what is wrong with it.
        next_action: what the reader should do now.
    """

    category: ClassVar[Category] = Category.INTERNAL
    code: ClassVar[str] = "skyloom_error"
    _by_code: ClassVar[dict[str, type["SkyloomError"]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        if cls.code in cls._by_code:
            raise TypeError(f"two errors share the code {cls.code}")
        cls._by_code[cls.code] = cls

    def __init__(self, message: str, *, next_action: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_action = next_action

    def __str__(self) -> str:
        return f"{self.message} {self.next_action}"

    def body(self) -> ErrorBody:
        """Return the error as plain data."""
        return ErrorBody(code=self.code, category=self.category, message=self.message, next_action=self.next_action)


class InvalidInput(SkyloomError):
    category = Category.INVALID


class Unauthenticated(SkyloomError):
    category = Category.UNAUTHENTICATED


class Denied(SkyloomError):
    category = Category.DENIED


class NotFound(SkyloomError):
    category = Category.NOT_FOUND


class Conflict(SkyloomError):
    category = Category.CONFLICT


class LimitExceeded(SkyloomError):
    category = Category.LIMIT


class StorageFull(SkyloomError):
    category = Category.STORAGE_FULL


class Unavailable(SkyloomError):
    category = Category.UNAVAILABLE


class InternalError(SkyloomError):
    category = Category.INTERNAL


REFUSALS = (InvalidInput, Denied, NotFound, Conflict, LimitExceeded)
"""What asking again does not change; anything else is trouble that passes, or a defect of ours."""


class IllegalMove(Conflict):
    """A state change that its move table does not list."""


class StaleVersion(Conflict):
    """Someone else changed the record since it was read."""


class AlreadyExists(Conflict):
    """The name is taken."""


class NotPermitted(Denied):
    """The operating system refuses the file, folder or port."""


_BY_CATEGORY: dict[Category, type[SkyloomError]] = {
    kind.category: kind
    for kind in (
        InvalidInput,
        Unauthenticated,
        Denied,
        NotFound,
        Conflict,
        LimitExceeded,
        StorageFull,
        Unavailable,
        InternalError,
    )
}


def rebuild(body: ErrorBody) -> SkyloomError:
    """Turn plain data back into the exception it came from; an unknown code becomes its category's class."""
    kind = SkyloomError._by_code.get(body.code, _BY_CATEGORY[body.category])
    error = kind(body.message, next_action=body.next_action)
    error.code = body.code  # type: ignore[misc]  # the class may not be loaded here; its code still tells
    return error
