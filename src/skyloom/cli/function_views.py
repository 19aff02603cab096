"""How functions and their calls are shown."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.wording import safe
from skyloom.rooms.functions.model import FunctionStatus, Invocation
from skyloom.rooms.serving.model import EndpointState


def _doing(status: FunctionStatus) -> str:
    """A function that sleeps is ready: the next call wakes it."""
    endpoint = status.endpoint
    asleep = endpoint.state is EndpointState.READY and not endpoint.endpoint.num_replicas
    return "asleep" if asleep else endpoint.state.value


def _entries(status: FunctionStatus) -> str:
    said = []
    for method in status.methods:
        taken = ", ".join(f"{one.name}: {one.annotation}{'' if one.required else ' = …'}" for one in method.parameters)
        said.append(f"{method.name}({taken}) -> {method.returns}")
    return safe("; ".join(said))


FUNCTION_COLUMNS: Mapping[type, Sequence[Column]] = {
    FunctionStatus: (
        of("function.name", "function"),
        Column("state", _doing, "endpoint.state"),
        Column("takes", _entries, "methods"),
        of("endpoint.endpoint.revision", "revision"),
        of("num_calls", "calls"),
        of("num_waiting", "waiting"),
        of("num_dead", "dead"),
        of("cost"),
        of("endpoint.url", "address"),
    ),
    Invocation: (
        of("id", "invocation"),
        of("function"),
        of("method"),
        of("state"),
        of("attempts"),
        of("trigger"),
        of("created_at"),
        of("message"),
    ),
}
FUNCTION_PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    FunctionStatus: (
        (
            of("function.name", "function"),
            Column("state", _doing, "endpoint.state"),
            of("endpoint.message", "message"),
            of("endpoint.next_action", "next action"),
            Column("takes", _entries, "methods"),
            of("endpoint.url", "address"),
            of("endpoint.endpoint.revision", "revision"),
            of("endpoint.endpoint.fallback.number", "can go back to"),
            of("num_calls", "calls"),
            of("num_waiting", "waiting"),
            of("num_dead", "dead letters"),
            of("function.max_attempts", "attempts of a queued call"),
            of("cost"),
            of("function.created_by", "made by"),
            of("function.created_at", "made"),
        ),
        (),
    ),
    Invocation: (
        (
            of("id", "invocation"),
            of("function"),
            of("method"),
            of("state"),
            of("message"),
            of("arguments"),
            of("answer"),
            of("key"),
            of("attempts"),
            of("next_at", "next attempt"),
            of("trigger"),
            of("created_by", "asked by"),
            of("created_at", "asked"),
            of("ended_at", "ended"),
        ),
        (),
    ),
}
