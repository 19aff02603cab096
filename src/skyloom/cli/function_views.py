"""How functions, their calls and triggers are shown."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.wording import safe
from skyloom.rooms.functions.model import FunctionStatus, Invocation
from skyloom.rooms.serving.model import EndpointState
from skyloom.rooms.triggers.model import (
    DeliveryStatus,
    IssuedTrigger,
    RunBatch,
    RunFunction,
    Trigger,
    TriggerStatus,
)


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


def _waits(trigger: Trigger) -> str:
    """What it waits for, as it was asked."""
    when = trigger.when
    clock = (f"'{when.cron}' {when.time_zone}",) if when.cron else ()
    fields = (f"{name}={value}" for name, value in when.where.items())
    return safe(" ".join((when.kind.value, *clock, *fields)))


def _runs(trigger: Trigger) -> str:
    """What it runs, as it was asked."""
    run = trigger.run
    if isinstance(run, RunFunction):
        return f"function:{run.function}" + (f"/{run.method}" if run.method else "")
    if isinstance(run, RunBatch):
        return f"batch:dataset={run.order.dataset},model={run.order.model},to={run.order.to}"
    return f"job-template:{run.template}" + (f"/{run.job}" if run.job else "")


def _trigger_pairs(path: str) -> Sequence[Column]:
    """The pairs of a page about a trigger that stands at a path."""
    return (
        of(f"{path}.name", "trigger"),
        of(f"{path}.state"),
        of(f"{path}.message"),
        Column("on", lambda noun: _waits(getattr(noun, path)), f"{path}.when"),
        Column("runs", lambda noun: _runs(getattr(noun, path)), f"{path}.run"),
        of("hook", "address"),
        of(f"{path}.owner", "with the rights of"),
        of(f"{path}.num_delivered", "delivered"),
        of(f"{path}.num_refused", "refused"),
        of(f"{path}.num_cut", "cut as loops"),
        of(f"{path}.next_slot_at", "next"),
        of(f"{path}.created_at", "made"),
    )


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
    Trigger: (
        of("name", "trigger"),
        of("state"),
        Column("on", _waits, "when"),
        Column("runs", _runs, "run"),
        of("num_delivered", "delivered"),
        of("num_refused", "refused"),
        of("owner", "rights of"),
        of("message"),
    ),
    DeliveryStatus: (
        of("delivery.number", "number"),
        of("delivery.at"),
        of("delivery.event.facts", "facts"),
        of("delivery.began", "began"),
        of("state"),
        of("delivery.message", "message"),
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
    Trigger: (FUNCTION_COLUMNS[Trigger], ()),
    TriggerStatus: (_trigger_pairs("trigger"), ("deliveries",)),
    IssuedTrigger: ((*_trigger_pairs("trigger"), of("secret")), ()),
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
