"""``skyloom simulate-autoscale``: a log of requests, answered by replicas that are imagined, scaled by the cloud's own policy."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from skyloom.cli import values
from skyloom.cli.frame import AsJson, word
from skyloom.cli.render import progress, say_written, show
from skyloom.cli.values import UnreadableOption
from skyloom.rooms.serving.scaling import (
    DEFAULT_TARGETS,
    MAX_REPLICAS,
    Autoscaling,
    Foresight,
    ScaleSignal,
    check_scaling,
)
from skyloom.simulation.autoscaling import Advance, NamedScaling, ServiceGoal, compare
from skyloom.simulation.figure import check_figure
from skyloom.simulation.load_figure import write_load_figure
from skyloom.simulation.replicas import Answered, ReplicaKind
from skyloom.simulation.requests import Speeds, read_requests

_SHORT = {"min": "min_replicas", "max": "max_replicas", "window": "window_s", "zero": "scale_to_zero_after_s"}
_SHORT |= {"up_delay": "scale_up_delay_s", "down_delay": "scale_down_delay_s", "panic": "panic_threshold"}
_KNATIVE: dict[str, Any] = {"min_replicas": 0, "scale_down_delay_s": 0.0, "scale_to_zero_after_s": 90.0}
_SHARE = 0.7  # of what a replica can do: Knative's own default
_DEFAULT = ("concurrency", "knative", "rate", "utilisation", "fixed")
_MANY = 50_000  # requests; fewer are played before one could read how far they are
_MAX_POLICIES = 20
_LONGEST_START_S = 3_600.0

app = word("Play a log of requests on imagined replicas.")

Traces = Annotated[list[Path], typer.Option("--trace", metavar="FILE", help="A log of requests; repeat for more.")]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME[,KEY=VALUE…]",
        help="concurrency, rate, queue_delay, latency, utilisation, knative or fixed; "
        "keys: target, min, max, window, zero, up_delay, down_delay, panic, foresight (days), …; repeat it to compare.",
    ),
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, max=10_000, help="Requests that a replica answers at once.")
]
ColdStart = Annotated[str, typer.Option("--cold-start", help="From the decision to a replica that answers.")]
Service = Annotated[
    str | None,
    typer.Option("--service", help="How long each request takes.  [default: as the log says]", show_default=False),
]
ContextRate = Annotated[float, typer.Option("--context-rate", min=0.001, help="Tokens/s read, for logs of tokens.")]
TokenRate = Annotated[float, typer.Option("--token-rate", min=0.001, help="Tokens/s written, for logs of tokens.")]
LatencyTarget = Annotated[
    str | None, typer.Option("--latency-target", help="In time is who is answered within this.", show_default=False)
]
WaitTarget = Annotated[str, typer.Option("--wait-target", help="Without --latency-target: who waits no longer.")]
WhatIf = Annotated[
    str | None, typer.Option("--what-if", metavar="KEY=A,B,…", help="The first policy with each of these: max=2,4,8.")
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.html|.png", help="Draw load, replicas and waiting.")]


@app.command("simulate-autoscale")
def simulate_autoscale(
    trace: Traces,
    policy: Policies = None,
    concurrency: Concurrency = 8,
    cold_start: ColdStart = "1s",
    service: Service = None,
    context_rate: ContextRate = 5_000.0,
    token_rate: TokenRate = 50.0,
    latency_target: LatencyTarget = None,
    wait_target: WaitTarget = "1s",
    what_if: WhatIf = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Play a log: `skyloom simulate-autoscale --trace calls.csv --policy concurrency,target=6,max=10 --policy fixed,max=4`.

    Reads arrived_s,service_s; Azure's logs of language models and of functions as they are published; Skyloom's request logs (.jsonl).
    The policy is the live cloud's. Without --policy, several are compared. The same command gives the same numbers.
    """
    if plot is not None:
        check_figure(plot)
    speeds = Speeds(None if service is None else values.duration_s(service), context_rate, token_rate)
    kind = ReplicaKind(concurrency=concurrency, cold_start_s=values.duration_s(cold_start))
    if kind.cold_start_s > _LONGEST_START_S:
        raise UnreadableOption(
            f"--cold-start {cold_start} is more than an hour.", next_action="Write --cold-start 30s."
        )
    goal = ServiceGoal(
        latency_s=None if latency_target is None else values.duration_s(latency_target),
        wait_s=values.duration_s(wait_target),
    )
    log = read_requests(trace, speeds)
    mean_s = sum(log.services) / len(log.services)
    words = list(dict.fromkeys(policy or _DEFAULT))
    if len(words) > _MAX_POLICIES:
        raise UnreadableOption(f"{len(words)} policies are too many.", next_action=f"Give at most {_MAX_POLICIES}.")
    policies = [read_policy(text, kind, goal, mean_s) for text in words]
    others = [read_policy(f"{words[0]},{change}", kind, goal, mean_s) for change in _changes(what_if)]
    others = [msgspec.structs.replace(one, name=change) for one, change in zip(others, _changes(what_if), strict=True)]

    def watch(named: NamedScaling, play: Callable[[Advance], Answered]) -> Answered:
        with progress(named.name, len(log.arrivals), quiet=as_json or len(log.arrivals) < _MANY) as advance:
            return play(advance)

    report, answered = compare(log, policies, kind, goal, others, watch)
    if plot is not None:
        write_load_figure(report, answered, plot)
    show(report, as_json)
    if plot is not None and not as_json:
        say_written("plot", plot)


def read_policy(text: str, kind: ReplicaKind, goal: ServiceGoal, mean_service_s: float) -> NamedScaling:
    """Read ``concurrency,target=6,max=10``. Raises `UnreadableOption` and `ScalingUnclear`."""
    name, *pairs = (part.strip() for part in text.split(","))
    given: dict[str, Any] = {"max_replicas": 10}
    given |= _KNATIVE if name == "knative" else {"min_replicas": 0}
    signals = {signal.value: signal for signal in ScaleSignal if signal is not ScaleSignal.GPU}
    if name not in (*signals, "knative", "fixed"):
        raise UnreadableOption(
            f"--policy {name[:40]!r} is not known.",
            next_action=f"Write one of {', '.join((*signals, 'knative', 'fixed'))}.",
        )
    signal = signals.get(name, ScaleSignal.CONCURRENCY)
    given |= {"signal": signal.value, "target": _target(signal, kind, goal, mean_service_s)}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = _SHORT.get(key, key)
        if not equals:
            raise UnreadableOption(f"--policy: {pair[:40]!r} is no KEY=VALUE.", next_action="Write max=10.")
        given[key] = value
    if "foresight" in given:
        given["foresight"] = Foresight(num_days=_whole(given["foresight"], "foresight"))
    if name == "fixed":
        given["min_replicas"] = given["max_replicas"]
    try:
        scaling = msgspec.convert(given, Autoscaling, strict=False)
    except msgspec.ValidationError as error:
        raise UnreadableOption(
            f"--policy {text[:80]!r}: {error}.",
            next_action=f"Keys: {', '.join((*_SHORT, *Autoscaling.__struct_fields__))}.",
        ) from error
    check_scaling(scaling)
    return NamedScaling(name=text, scaling=scaling)


def _target(signal: ScaleSignal, kind: ReplicaKind, goal: ServiceGoal, mean_service_s: float) -> float:
    """What suits replicas that answer so many at once, so fast."""
    if signal is ScaleSignal.CONCURRENCY:
        return _SHARE * kind.concurrency
    if signal is ScaleSignal.RATE and mean_service_s > 0:
        return max(1e-3, _SHARE * kind.concurrency / mean_service_s)
    if signal is ScaleSignal.LATENCY and goal.latency_s:
        return goal.latency_s
    return DEFAULT_TARGETS[signal]


def _changes(text: str | None) -> list[str]:
    """``max=2,4`` as ``max=2`` and ``max=4``. Raises `UnreadableOption`."""
    if text is None:
        return []
    match = re.fullmatch(r"\s*([a-z_]{1,30})\s*=\s*([\w.]{1,20}(?:\s*,\s*[\w.]{1,20})*)\s*", text)
    found = list(dict.fromkeys(part.strip() for part in match[2].split(","))) if match else []
    if match is None or len(found) > _MAX_POLICIES:
        raise UnreadableOption(
            f"--what-if {text[:80]!r} is not a key and up to {_MAX_POLICIES} values.",
            next_action="Write --what-if max=2,4,8.",
        )
    return [f"{match[1]}={value}" for value in found]


def _whole(text: str, key: str) -> int:
    if not re.fullmatch(r"\d{1,3}", str(text)) or not 1 <= int(text) <= MAX_REPLICAS:
        raise UnreadableOption(f"--policy: {key}={text[:20]!r} is no number.", next_action=f"Write {key}=7.")
    return int(text)
