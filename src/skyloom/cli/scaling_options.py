"""The words of ``skyloom deploy`` by which the number of replicas follows the load."""

import re
from typing import Annotated, Any

import msgspec
import typer

from skyloom.cli import values
from skyloom.cli.values import UnreadableOption
from skyloom.rooms.serving.model import EndpointMissing
from skyloom.rooms.serving.scaling import (
    DEFAULT_TARGETS,
    MAX_REPLICAS,
    Autoscaling,
    Foresight,
    ScaleSignal,
    ScheduledFloor,
    check_scaling,
)
from skyloom.sdk.client import Client

_FLOOR = re.compile(r"\s*(\S+(?: \S+){0,4}) to (\S+(?: \S+){0,4})\s*=\s*(\d{1,3})(?:@([A-Za-z0-9_+/-]{1,64}))?\s*")

MinReplicas = Annotated[
    int | None,
    typer.Option(
        "--min-replicas", min=0, max=MAX_REPLICAS, help="Scale down to so many; 0 sleeps.", show_default=False
    ),
]
MaxReplicas = Annotated[
    int | None, typer.Option("--max-replicas", min=1, max=MAX_REPLICAS, help="Scale up to so many.", show_default=False)
]
ScaleOn = Annotated[
    ScaleSignal | None,
    typer.Option("--scale-on", help="What is kept at the target.", case_sensitive=False, show_default=False),
]
Target = Annotated[
    float | None,
    typer.Option(
        "--target",
        min=1e-6,
        max=1e6,
        help="For each replica: requests at once, or what --scale-on says.",
        show_default=False,
    ),
]
Window = Annotated[str | None, typer.Option("--window", help="How far back it looks: 30s.", show_default=False)]
UpDelay = Annotated[
    str | None,
    typer.Option("--scale-up-delay", help="Grow only when more were right for so long: 0s.", show_default=False),
]
DownDelay = Annotated[
    str | None,
    typer.Option("--scale-down-delay", help="Shrink only when fewer were right for so long: 5min.", show_default=False),
]
ZeroAfter = Annotated[
    str | None,
    typer.Option("--scale-to-zero-after", help="Sleep after so long without a request: 90s.", show_default=False),
]
FloorWords = Annotated[
    list[str] | None,
    typer.Option(
        "--floor",
        metavar="'CRON to CRON=N[@ZONE]'",
        help="At least N in these hours, as '0 8 * * 1-5 to 0 18 * * 1-5=3@Europe/Berlin'; repeat it.",
        show_default=False,
    ),
]
ForesightDays = Annotated[
    int | None,
    typer.Option(
        "--foresight",
        metavar="DAYS",
        min=0,
        max=28,
        help="Ready for what so many days needed; 0 ends.",
        show_default=False,
    ),
]


def told(
    *,
    min_replicas: int | None,
    max_replicas: int | None,
    scale_on: ScaleSignal | None,
    target: float | None,
    window: str | None,
    up_delay: str | None,
    down_delay: str | None,
    zero_after: str | None,
    floors: list[str] | None,
    foresight: int | None,
) -> dict[str, Any]:
    """What was said, as attributes of `Autoscaling`. Raises `UnreadableOption`."""
    given: dict[str, Any] = {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "signal": scale_on,
        "target": target,
        "window_s": _seconds(window),
        "scale_up_delay_s": _seconds(up_delay),
        "scale_down_delay_s": _seconds(down_delay),
        "scale_to_zero_after_s": _seconds(zero_after),
        "floors": tuple(map(_floor, floors)) if floors else None,
    }
    found = {name: value for name, value in given.items() if value is not None}
    if scale_on is not None and target is None:
        found["target"] = DEFAULT_TARGETS[scale_on]
    if foresight is not None:
        found["foresight"] = Foresight(num_days=foresight) if foresight else None
    return found


def scaling_of(client: Client, endpoint: str, said: dict[str, Any]) -> Autoscaling:
    """What an endpoint has, with what was said. Raises `UnreadableOption` and `ScalingUnclear`."""
    try:
        known = client.endpoints.get(endpoint).endpoint.scaling or Autoscaling()
    except EndpointMissing:
        known = Autoscaling()
    if "min_replicas" in said and "max_replicas" not in said and said["min_replicas"] > known.max_replicas:
        said = {**said, "max_replicas": said["min_replicas"]}
    scaling = msgspec.structs.replace(known, **said)
    try:
        msgspec.convert(msgspec.to_builtins(scaling), Autoscaling)
    except msgspec.ValidationError as error:
        raise UnreadableOption(f"The scaling cannot be: {error}.", next_action="See: skyloom deploy --help.") from error
    check_scaling(scaling)
    return scaling


def _seconds(text: str | None) -> float | None:
    return None if text is None else values.duration_s(text)


def _floor(text: str) -> ScheduledFloor:
    match = _FLOOR.fullmatch(text)
    if match is None or not 1 <= int(match[3]) <= MAX_REPLICAS:
        raise UnreadableOption(
            f"--floor {text[:100]!r} is no pair of cron lines and a number.",
            next_action="Write --floor '0 8 * * 1-5 to 0 18 * * 1-5=3@Europe/Berlin'.",
        )
    return ScheduledFloor(start=match[1], end=match[2], min_replicas=int(match[3]), time_zone=match[4] or "UTC")
