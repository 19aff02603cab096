"""Plain functions as a service: each is an endpoint, its typed arguments the schema. The same here and where it runs."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.sdk.acting import acting_for
from skyloom.sdk.service import MARK, DecoratedFunction, Endpointed, Service

CLASS_NAME = "Functions"
_FLAVOURS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (inspect.isasyncgenfunction, "async_parts"),
    (inspect.iscoroutinefunction, "async_whole"),
    (inspect.isgeneratorfunction, "parts"),
)


class FunctionNotFound(NotFound):
    """The file has no such function."""


class FunctionsUnclear(InvalidInput):
    """It is not clear which functions of the file are meant."""


def functions_of(module: ModuleType, names: Iterable[str] = ()) -> dict[str, Any]:
    """The functions that are meant: those named; else those decorated; else the only public one that the file defines.

    Raises `FunctionNotFound`, `FunctionsUnclear`.
    """
    own = {name: value for name, value in vars(module).items() if _is_own(module, name, value)}
    wanted = tuple(names)
    for name in wanted:
        if name not in own:
            known = ", ".join(own) or "none"
            raise FunctionNotFound(f"The file has no function {name!r}.", next_action=f"Its functions: {known}.")
    if wanted:
        return {name: own[name] for name in wanted}
    decorated = {
        name: value for name, value in own.items() if isinstance(value, DecoratedFunction) or hasattr(value, MARK)
    }
    if decorated or len(own) == 1:
        return decorated or own
    known = ", ".join(own) or "none"
    raise FunctionsUnclear(
        f"The file has {len(own)} functions, and none is decorated.",
        next_action=f"Name what to deploy, FILE.py:FUNCTION, or decorate it with @skyloom.function. There are: {known}.",
    )


def service_class(module: ModuleType, names: Iterable[str], options: Mapping[str, Any] | None = None) -> type[Service]:
    """A service whose endpoints are functions of a module; as large as the largest of their decorators says.

    Args:
        options: ``timeout_s`` and ``concurrency`` for all of them, before what each is decorated with.
    """
    found = functions_of(module, names)
    methods = {name: _method(body_of(value), options or {}) for name, value in found.items()}
    asked = [value.options["resources"] for value in found.values() if isinstance(value, DecoratedFunction)]
    size = {
        "cpus": max((one.cpus for one in asked), default=None),
        "memory": str(max(one.memory_bytes for one in asked)) if asked else None,
    }
    about = {"__doc__": module.__doc__, "__module__": module.__name__}
    return type(CLASS_NAME, (Service,), {**about, **size, **methods})


def service_of(name: str, names: Iterable[str], **options: Any) -> type[Service]:
    """`service_class` of a module that lies beside; what a deployed function's process begins with."""
    return service_class(importlib.import_module(name), names, options)


def body_of(value: Any) -> Callable[..., Any]:
    """A function without what ``@skyloom.function`` put around it."""
    return value.body if isinstance(value, DecoratedFunction) else value


def _is_own(module: ModuleType, name: str, value: Any) -> bool:
    body = value.body if isinstance(value, DecoratedFunction) else value
    return not name.startswith("_") and inspect.isfunction(body) and body.__module__ == module.__name__


def _method(body: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """The function as a method that looks like it: same arguments, same types, same kind of answer."""
    flavour = next((name for is_it, name in _FLAVOURS if is_it(body)), "whole")
    method: Callable[..., Any] = functools.wraps(body)(_METHODS[flavour](body))
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.signature(body)
    method.__dict__["__signature__"] = signature.replace(parameters=[first, *signature.parameters.values()])
    marked: Endpointed = getattr(body, MARK, Endpointed())
    setattr(method, MARK, replace(marked, **options))
    return method


def _whole(body: Callable[..., Any]) -> Callable[..., Any]:
    def call(_service: Service, /, **arguments: Any) -> Any:
        with acting_for(arguments):
            return body(**arguments)

    return call


def _async_whole(body: Callable[..., Any]) -> Callable[..., Any]:
    async def call(_service: Service, /, **arguments: Any) -> Any:
        with acting_for(arguments):
            return await body(**arguments)

    return call


def _parts(body: Callable[..., Any]) -> Callable[..., Any]:
    def call(_service: Service, /, **arguments: Any) -> Any:
        yield from body(**arguments)

    return call


def _async_parts(body: Callable[..., Any]) -> Callable[..., Any]:
    async def call(_service: Service, /, **arguments: Any) -> Any:
        async for part in body(**arguments):
            yield part

    return call


_METHODS = {"whole": _whole, "async_whole": _async_whole, "parts": _parts, "async_parts": _async_parts}
