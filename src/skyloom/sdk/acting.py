"""Which event a function acts for, while it runs: clients that it makes say so, and a trigger that sets itself off is noticed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from skyloom.core.events import TriggerEvent

_EVENT: ContextVar[str] = ContextVar("acting_for", default="")


@contextmanager
def acting_for(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Inside, what is done is done because of the event among the arguments, if there is one."""
    cause = next((value.cause for value in arguments.values() if isinstance(value, TriggerEvent)), "")
    token = _EVENT.set(cause)
    try:
        yield
    finally:
        _EVENT.reset(token)


def present_event() -> str:
    """The cause that goes with what is done now; "" for none. Not known to threads that the function itself starts."""
    return _EVENT.get()
