"""Whose signatures a device believes, against keys that really sign."""

import msgspec
import pytest

from skyloom.edge.trust import SignatureRefused, check_assignment, follow
from skyloom.rooms.devices.model import RotateDeviceKey
from tests.rooms.devices.fleet_room import FleetRoom


@pytest.fixture
def told():
    """A room whose keys were changed twice, its device, and all rings."""
    room = FleetRoom()
    device = room.join("kiosk")
    for _ in range(2):
        room.do(RotateDeviceKey(overlap_s=1.0))
        room.clock.advance(2)
        room.keys.tick()
    room.roll_out(stages=(100,))
    room.rollouts.tick()
    orders = room.sync(device)
    return orders.rings, orders.assignment, device.device_id


def test_device_that_was_away_for_long_follows_all_changes_of_keys(told):
    rings, assignment, device = told
    assert [len(ring.keys) for ring in rings] == [1, 2, 1, 2, 1]
    first = follow(None, rings[:1], "p")
    newest = follow(first, rings, "p")
    assert newest == rings[-1]
    check_assignment(newest, device, assignment)
    with pytest.raises(SignatureRefused):
        check_assignment(first, device, assignment)


def test_ring_that_leaves_one_out_or_is_anothers_or_was_changed_is_refused(told):
    rings, _, _ = told
    with pytest.raises(SignatureRefused):
        follow(rings[0], rings[2:], "p")
    with pytest.raises(SignatureRefused):
        follow(rings[0], rings[1:], "q")
    forged = msgspec.structs.replace(rings[1], keys=rings[1].keys[:1])
    with pytest.raises(SignatureRefused):
        follow(rings[0], (forged,), "p")
    assert follow(rings[2], rings[:3], "p") == rings[2]


@pytest.mark.parametrize(
    "change",
    [{"version": "v9"}, {"number": 99}, {"manifest": "sha256:" + "1" * 64}, {"signed_by": "key_x"}, {"signature": "00" * 64},
     {"signature": "zz"}, {"signature": ""}, {"label": "9"}, {"probation_s": 9.0}, {"rollout": "roll_x"}, {"model": "other"}],
)  # fmt: skip
def test_assignment_with_anything_changed_is_refused(told, change):
    rings, assignment, device = told
    with pytest.raises(SignatureRefused):
        check_assignment(rings[-1], device, msgspec.structs.replace(assignment, **change))
    with pytest.raises(SignatureRefused):
        check_assignment(rings[-1], "dev_other", assignment)
