"""Your own Python as a service: ``class Sentiment(skyloom.Service)`` with `setup` and methods marked ``@skyloom.endpoint``.

This module is what a service's file sees. It needs msgspec alone, so that it fits into any environment.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, overload

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.rooms.registry.bundle import Signature

MARK = "__skyloom_endpoint__"
F = TypeVar("F", bound=Callable[..., Any])


class ModelNotNamed(NotFound):
    """A service asks for a model that it did not name in ``models``."""


class BadRequest(InvalidInput):
    """Raise it (or a ``ValueError``) in an endpoint when the caller's arguments are wrong: the answer is 422 with your words."""

    def __init__(self, message: str, *, next_action: str = "Change the arguments.") -> None:
        super().__init__(message, next_action=next_action)


@dataclass(frozen=True)
class Endpointed:
    """What ``@skyloom.endpoint`` was told.

    Attributes:
        batch: so many requests may travel together: every argument is then a list, and so is what is returned.
        concurrency: so many calls run at once; 0 for one where the method is plain, 64 where it is ``async``.
        timeout_s: for one call, its waiting included.
    """

    batch: int = 0
    concurrency: int = 0
    timeout_s: float = 60.0


class DecoratedFunction:
    """Base of what a decorator of Skyloom makes of a function.

    Attributes:
        body: the function itself.
        options: what it was decorated with.
    """

    body: Callable[..., Any]
    options: Mapping[str, Any]


class Tensor:
    """The shape of an array, free axes as -1: ``Annotated[NDArray[np.float32], skyloom.Tensor(-1, 64)]``.

    A method whose arguments and results all have one is what the Open Inference Protocol calls too.
    """

    def __init__(self, *shape: int) -> None:
        self.shape = shape


class LocatedModel(Protocol):
    """A model that lies in the same process as the service.

    Attributes:
        signature: the tensors that it takes and gives.
    """

    signature: Signature

    def predict(self, inputs: Any = None, /, **named: Any) -> dict[str, Any]:
        """Arrays in, arrays out, by name; the first axis is the batch. One array alone is the model's only input."""
        ...


class Service:
    """Base of a service. One object lives in a process of its own; its endpoints may run at the same time (see `endpoint`).

    Attributes:
        requirements: packages beside those of the pool: a list, or the path of a ``requirements.txt`` beside the file.
        files: more files to take along, relative to the service's file (``model/*`` for many); they lie beside it when it runs.
        edges: a graph of these models: input ← output, each as ``name.tensor``; run by `flow`, checked when it is deployed.
        models: registered models to have beside you: ``{"digits": "digits:champion"}``, used as ``self.model("digits")``.
        cpus, memory: of each replica, unless the deployment says otherwise.
    """

    requirements: ClassVar[Sequence[str] | str] = ()
    files: ClassVar[Sequence[str]] = ()
    models: ClassVar[Mapping[str, str]] = {}
    edges: ClassVar[Mapping[str, str]] = {}
    cpus: ClassVar[float | None] = None
    memory: ClassVar[str | None] = None

    _located: Mapping[str, LocatedModel] = {}
    _order: Sequence[str] = ()

    def setup(self) -> None:
        """Load what the endpoints need; called once, before the first request."""

    def model(self, name: str) -> LocatedModel:
        """One of ``models``. Raises `ModelNotNamed`."""
        located = self._located
        if name not in located:
            known = ", ".join(sorted(located)) or "none"
            raise ModelNotNamed(
                f"The service has no model {name!r} beside it.",
                next_action=f'Name it in the class: models = {{"{name}": "REGISTERED[:VERSION]"}}. There are: {known}.',
            )
        return located[name]

    def flow(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph of ``edges``: inputs that no edge feeds by ``name.tensor``; every output by ``name.tensor``."""
        from skyloom.sdk import graph  # who has no graph does not load it

        return graph.run(self._located, self._order, self.edges, inputs)


@overload
def endpoint(method: F, /) -> F: ...


@overload
def endpoint(*, batch: int = 0, concurrency: int = 0, timeout_s: float = 60.0) -> Callable[[F], F]: ...


def endpoint(
    method: F | None = None, /, *, batch: int = 0, concurrency: int = 0, timeout_s: float = 60.0
) -> F | Callable[[F], F]:
    """Mark a method as an endpoint: ``POST /{its name}``, its typed arguments as JSON. A generator answers part by part.

    Args:
        batch: up to so many requests at once; each argument is a list then, and the method returns a list as long.
        concurrency: calls at once. Plain methods run on threads, one call at a time by default; ``async`` ones on one loop, 64.
        timeout_s: how long a request may take, its waiting included; later it is answered 504.
    """

    def mark(method: F) -> F:
        setattr(method, MARK, Endpointed(batch=batch, concurrency=concurrency, timeout_s=timeout_s))
        return method

    return mark if method is None else mark(method)
