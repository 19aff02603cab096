"""From a service's class to facts about it: which endpoints, which types, which tensors. Refuses what could not be served.

The same look is taken when a service is registered and in the process that serves it, so both agree on what an argument is.
"""

import collections.abc
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from skyloom.rooms.registry.services import Answering, ServiceMethod, ServiceParameter, ServiceSpec
from skyloom.sdk.service import MARK, Endpointed, Service, Tensor

_SYNC_AT_ONCE, _ASYNC_AT_ONCE = 1, 64
_PARTS = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_REFERENCES = "#/components/schemas/{name}"
_DATATYPES = {
    "bool": Datatype.BOOL,
    "uint8": Datatype.UINT8,
    "int8": Datatype.INT8,
    "int16": Datatype.INT16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
    "float16": Datatype.FP16,
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
}
RESERVED = frozenset(
    {"v2", "metrics", "health", "ping", "openapi", "docs", "invocations", "v1", "setup", "model", "flow"}
)


class ServiceInvalid(InvalidInput):
    """The class cannot be served as it is written."""


@dataclass(frozen=True)
class Argument:
    """One argument as Python knows it: ``kind`` is what comes over the wire, one request's share where the method takes batches."""

    name: str
    kind: Any
    default: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class EndpointMethod:
    """One endpoint as Python knows it."""

    name: str
    body: Callable[..., Any]
    options: Endpointed
    arguments: tuple[Argument, ...]
    returns: Any
    is_async: bool
    is_parts: bool

    @property
    def concurrency(self) -> int:
        """Calls at once."""
        return self.options.concurrency or (_ASYNC_AT_ONCE if self.is_async else _SYNC_AT_ONCE)


def methods_of(service: type[Service]) -> list[EndpointMethod]:
    """The endpoints of a class. Raises `ServiceInvalid`."""
    found = [_method(service, name, body, options) for name, body, options in _marked(service)]
    if not found:
        raise _invalid(service, "has no endpoint", "Mark a method with @skyloom.endpoint.")
    return found


def describe(service: type[Service], entry: str) -> tuple[ServiceSpec, Signature]:
    """All that others need to know, and the tensors of its tensor endpoint. Raises `ServiceInvalid`."""
    if not (isinstance(service, type) and issubclass(service, Service)):
        raise ServiceInvalid(
            f"{getattr(service, '__name__', service)!r} is no skyloom.Service.",
            next_action="Write: class Sentiment(skyloom.Service).",
        )
    methods = methods_of(service)
    kinds = [kind for method in methods for kind in (*(one.kind for one in method.arguments), method.returns)]
    for method in methods:
        _check_kinds(service, method)
    schemas, definitions = msgspec.json.schema_components(kinds, schema_hook=_schema, ref_template=_REFERENCES)
    written = iter(_text(schema) for schema in schemas)
    tensors = {method.name: signature for method in methods if (signature := _signature(method))}
    chosen = next(iter(tensors), "")
    spec = ServiceSpec(
        entry=entry,
        class_name=service.__name__,
        doc=(inspect.getdoc(service) or "")[:4_000] if service.__doc__ else "",
        methods=tuple(_spec(method, written) for method in methods),
        definitions=_text(definitions),
        tensors=chosen,
    )
    return spec, tensors.get(chosen, Signature(inputs=(), outputs=()))


def is_array(kind: Any) -> bool:
    """True for numpy's array type, with or without its element type; numpy is not imported for it."""
    origin = typing.get_origin(bare(kind)) or bare(kind)
    return getattr(origin, "__module__", "") == "numpy" and getattr(origin, "__name__", "") == "ndarray"


def bare(kind: Any) -> Any:
    """A type without what `Annotated` adds."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def element_of(kind: Any) -> Any:
    """The element type of an array type (``numpy.float32``), or None."""
    arguments = typing.get_args(bare(kind))
    inner = typing.get_args(arguments[-1]) if arguments else ()
    return inner[0] if inner and isinstance(inner[0], type) else None


def _marked(service: type[Service]) -> Iterator[tuple[str, Callable[..., Any], Endpointed]]:
    """Endpoints with what they were told, those of bases first. Who overrides one without marking it again keeps what it was told;
    ``name = None`` takes it away."""
    told: dict[str, Endpointed] = {}
    for owner in reversed(service.__mro__):
        for name, body in vars(owner).items():
            if hasattr(body, MARK):
                told[name] = getattr(body, MARK)
    for name, options in told.items():
        body = inspect.getattr_static(service, name)
        if body is not None:
            yield name, body, options


def _method(service: type[Service], name: str, body: Callable[..., Any], options: Endpointed) -> EndpointMethod:
    if not inspect.isfunction(body):
        raise _invalid(service, f"cannot offer {name}, which is no method", "Mark a def with self.")
    if name.startswith("_") or name in RESERVED:
        raise _invalid(service, f"cannot offer an endpoint {name!r}", "Rename the method.")
    try:
        hints = typing.get_type_hints(body, include_extras=True)
    except (NameError, TypeError) as error:
        raise _invalid(
            service, f"has types that cannot be read in {name}: {error}", "Import what they name."
        ) from error
    arguments = tuple(
        _argument(service, name, one, hints) for one in list(inspect.signature(body).parameters.values())[1:]
    )
    is_parts = inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body)
    returns = hints.get("return", Any)
    if is_parts and typing.get_origin(returns) in _PARTS:
        returns = typing.get_args(returns)[0]
    if options.batch:
        if is_parts:
            raise _invalid(service, f"cannot batch {name}, which answers in parts", "Take batch= away.")
        arguments = tuple(Argument(one.name, _one_of(service, name, one.kind)) for one in arguments)
        returns = _one_of(service, name, returns)
    is_async = inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body)
    return EndpointMethod(name, body, options, arguments, returns, is_async, is_parts)


def _argument(service: type[Service], method: str, one: inspect.Parameter, hints: dict[str, Any]) -> Argument:
    if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
        raise _invalid(service, f"takes {one} in {method}, which has no name to be called by", "Name every argument.")
    if one.name not in hints:
        raise _invalid(service, f"does not say what {one.name!r} of {method} is", f"Write its type: {one.name}: str")
    return Argument(one.name, hints[one.name], one.default)


def _one_of(service: type[Service], name: str, kind: Any) -> Any:
    if kind is Any:
        return Any
    if typing.get_origin(kind) is not list:
        raise _invalid(
            service,
            f"batches {name}, but not all its types are lists",
            "Write def f(self, text: list[str]) -> list[float].",
        )
    return typing.get_args(kind)[0]


def _check_kinds(service: type[Service], method: EndpointMethod) -> None:
    named = [(one.name, one.kind) for one in method.arguments] + [("its result", method.returns)]
    for name, kind in named:
        try:
            msgspec.json.schema_components([kind], schema_hook=_schema, ref_template=_REFERENCES)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise _invalid(
                service,
                f"cannot send {name} of {method.name}: {error}",
                "Use str, int, float, bool, bytes, list, dict, dataclasses, TypedDict, msgspec.Struct or numpy arrays.",
            ) from error


def _spec(method: EndpointMethod, schemas: Iterator[str]) -> ServiceMethod:
    parameters = tuple(
        ServiceParameter(
            name=one.name,
            annotation=written(one.kind),
            schema=next(schemas),
            required=one.default is inspect.Parameter.empty,
            is_bytes=bare(one.kind) is bytes,
        )
        for one in method.arguments
    )
    return ServiceMethod(
        name=method.name,
        doc=(inspect.getdoc(method.body) or "")[:4_000],
        parameters=parameters,
        returns=written(method.returns),
        returns_schema=next(schemas),
        answering=Answering.PARTS if method.is_parts else Answering.WHOLE,
        batch=method.options.batch,
        concurrency=method.concurrency,
        timeout_s=method.options.timeout_s,
    )


def written(kind: Any) -> str:
    """A type in Python's words."""
    kind = bare(kind)
    if is_array(kind):
        element = element_of(kind)
        return f"NDArray[{element.__name__}]" if element else "ndarray"
    if kind is None or kind is type(None):
        return "None"
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__name__
    return str(kind).replace("typing.", "")[:400]


def _schema(kind: Any) -> dict[str, Any]:
    if is_array(kind):
        return {"type": "array", "items": {}, "description": f"{written(kind)}, nested as its shape"}
    raise NotImplementedError(f"{written(kind)} has no form in JSON")


def _signature(method: EndpointMethod) -> Signature | None:
    """The tensors of a method whose arguments and result are all arrays of a known shape; of batches, it takes care itself."""
    if method.is_parts or method.options.batch or not method.arguments:
        return None
    inputs = [_tensor(one.name, one.kind) for one in method.arguments]
    outputs = _outputs(method.returns)
    if None in inputs or not outputs or None in outputs:
        return None
    return Signature(inputs=tuple(one for one in inputs if one), outputs=tuple(one for one in outputs if one))


def _outputs(kind: Any) -> list[TensorSpec | None]:
    """One array is called ``output``; the fields of a TypedDict are outputs by their names."""
    if typing.is_typeddict(kind):
        return [_tensor(name, inner) for name, inner in typing.get_type_hints(kind, include_extras=True).items()]
    return [_tensor("output", kind)]


def _tensor(name: str, kind: Any) -> TensorSpec | None:
    shape = next((extra.shape for extra in typing.get_args(kind)[1:] if isinstance(extra, Tensor)), None)
    element = element_of(kind) if is_array(kind) else None
    datatype = _DATATYPES.get(element.__name__) if element else None
    if shape is None or datatype is None or not shape or shape[0] != -1:
        return None
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _invalid(service: type[Service], what: str, next_action: str) -> ServiceInvalid:
    return ServiceInvalid(f"The service {service.__name__} {what}.", next_action=next_action)
