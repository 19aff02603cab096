"""A roll-out that is for nobody says so, and whom there is."""

from types import SimpleNamespace

import pytest

from skyloom.cli.rollout import nobody_meant
from skyloom.core.operation import Page
from skyloom.rooms.devices.model import DeviceState


def fleet(*devices: tuple[DeviceState, dict[str, str]]):
    found = tuple(SimpleNamespace(state=state, device=SimpleNamespace(labels=labels)) for state, labels in devices)
    return SimpleNamespace(devices=SimpleNamespace(list=lambda limit, cursor=None: Page(items=found)))


HERE = fleet(
    (DeviceState.ONLINE, {"site": "b", "kind": "pi"}),
    (DeviceState.ENROLLED, {"site": "a"}),
    (DeviceState.RETIRED, {"site": "old"}),
)


@pytest.mark.parametrize("wanted", [{}, {"site": "a"}, {"site": "b", "kind": "pi"}])
def test_roll_out_that_a_device_is_in_has_no_warning(wanted) -> None:
    assert nobody_meant(HERE, wanted) == ""


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"site": "zz"}, ("no device is site=zz", "site is one of: a, b.")),
        ({"site": "old"}, ("site is one of: a, b.",)),
        ({"site": "a", "kind": "pi"}, ("site=a and kind=pi", "kind is one of: pi")),
        ({"place": "a"}, ("no device has the label place",)),
    ],
)
def test_roll_out_that_no_device_is_in_says_which_labels_there_are(wanted, words) -> None:
    warning = nobody_meant(HERE, wanted)
    assert all(one in warning for one in words)


def test_without_devices_it_says_how_to_let_one_in() -> None:
    assert "skyloom device enrol" in nobody_meant(fleet(), {"site": "a"})
    assert "skyloom device enrol" in nobody_meant(fleet(), {})
