"""The words of ``skyloom deploy`` about scaling: read, added to what an endpoint has, refused where they cannot be meant."""

from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.cli import scaling_options
from skyloom.cli.values import UnreadableOption
from skyloom.rooms.serving.model import EndpointMissing
from skyloom.rooms.serving.scaling import Autoscaling, Foresight, ScaleSignal, ScalingUnclear, ScheduledFloor

NOTHING: dict[str, Any] = dict.fromkeys(
    (
        *("min_replicas", "max_replicas", "scale_on", "target", "window", "up_delay", "down_delay", "zero_after"),
        *("floors", "foresight"),
    )
)


def cloud_with(scaling: Autoscaling | None, exists: bool = True) -> Any:
    def get(name: str) -> Any:
        if not exists:
            raise EndpointMissing("no", next_action="")
        return SimpleNamespace(endpoint=SimpleNamespace(scaling=scaling))

    return SimpleNamespace(endpoints=SimpleNamespace(get=get))


def asked(client: Any, **words: Any) -> Autoscaling:
    return scaling_options.scaling_of(client, "toy", scaling_options.told(**{**NOTHING, **words}))


def test_nothing_said_is_nothing_told() -> None:
    assert scaling_options.told(**NOTHING) == {}


def test_words_become_a_scaling_with_a_target_that_suits_the_signal() -> None:
    scaling = asked(
        cloud_with(None, exists=False),
        min_replicas=0,
        max_replicas=6,
        scale_on=ScaleSignal.RATE,
        window="2min",
        zero_after="5min",
        floors=["0 8 * * 1-5 to 0 18 * * 1-5=3@Europe/Berlin", "@daily to 30 0 * * *=2"],
        foresight=7,
    )
    assert scaling == Autoscaling(
        min_replicas=0,
        max_replicas=6,
        signal=ScaleSignal.RATE,
        target=50.0,
        window_s=120.0,
        scale_to_zero_after_s=300.0,
        floors=(
            ScheduledFloor(start="0 8 * * 1-5", end="0 18 * * 1-5", min_replicas=3, time_zone="Europe/Berlin"),
            ScheduledFloor(start="@daily", end="30 0 * * *", min_replicas=2),
        ),
        foresight=Foresight(num_days=7),
    )


def test_words_that_are_left_out_stay_as_the_endpoint_has_them() -> None:
    known = Autoscaling(max_replicas=9, target=3.0, foresight=Foresight(num_days=3))
    assert asked(cloud_with(known), down_delay="2min", foresight=0) == Autoscaling(
        max_replicas=9, target=3.0, scale_down_delay_s=120.0
    )
    assert asked(cloud_with(None), min_replicas=7).max_replicas == 7


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"floors": ["office hours"]}, UnreadableOption),
        ({"floors": ["@daily to @hourly=0"]}, UnreadableOption),
        ({"window": "1s"}, UnreadableOption),
        ({"window": "soon"}, UnreadableOption),
        ({"target": float("nan")}, UnreadableOption),
        ({"min_replicas": 5, "max_replicas": 4}, ScalingUnclear),
        ({"scale_on": ScaleSignal.UTILISATION, "target": 70.0}, ScalingUnclear),
        ({"scale_on": ScaleSignal.LATENCY, "foresight": 3}, ScalingUnclear),
    ],
)
def test_words_that_cannot_be_meant_are_refused(words: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        asked(cloud_with(None), **words)
