"""The pure rules of devices, over everything that may happen."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.rooms.devices import rules
from skyloom.rooms.devices.messages import DeviceOutcome
from skyloom.rooms.devices.model import Device, DeviceReport, DeviceState
from skyloom.rooms.devices.rollout import ROLLOUT_MOVES, Rollout, RolloutState
from skyloom.rooms.devices.rules import Seat, intake, take_turn, wanted_seats
from skyloom.rooms.monitoring.model import Latency, Traffic

ROLLOUT = Rollout(
    id="roll_1", project="p", model="m", model_version="v2", number=2, manifest="", files=(), labels={}, stages=(10, 50, 100),
    pause_s=60.0, min_healthy=0.9, probation_s=1.0, created_at=0.0, created_by="ann",
)  # fmt: skip
DEVICE = Device(id="dev_1", project="p", name="d", created_at=0.0, created_by="ann", joined_at=10.0, generation=1)


@pytest.mark.parametrize(
    ("silent_s", "state"),
    [(0, "online"), (29, "online"), (31, "late"), (104, "late"), (106, "offline"), (1e9, "offline")],
)
def test_device_state_follows_from_its_last_call(silent_s: float, state: str) -> None:
    report = DeviceReport(id="dev_1", project="p", seen_at=100.0, interval_s=10.0)
    assert rules.state_of(DEVICE, report, 100.0 + silent_s) is DeviceState(state)


def test_device_that_was_retired_or_never_joined_is_told_so() -> None:
    assert rules.state_of(msgspec.structs.replace(DEVICE, retired_at=5.0), None, 20.0) is DeviceState.RETIRED
    assert rules.state_of(msgspec.structs.replace(DEVICE, joined_at=None), None, 20.0) is DeviceState.ENROLLED


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 12)), max_size=60))
def test_intake_in_any_order_takes_every_record_once_or_counts_it(chunks: list[tuple[int, int, int]]) -> None:
    """Whatever comes, twice or out of order: records are taken in order, none twice, and what is left out was said to be gone."""
    position, taken, skipped = 0, [], 0
    for first, oldest, count in chunks:
        oldest = min(oldest, first)
        plan = intake(position, oldest, first, count)
        new = list(range(first, first + count))[plan.start :]
        assert position <= plan.next
        assert plan.next == max(position, oldest) + len(new)
        taken += new
        skipped += plan.skipped
        position = plan.next
    assert taken == sorted(set(taken))
    assert len(taken) + skipped == position


counts = st.integers(0, 1000)
traffics = st.builds(
    Traffic, requests=counts, rows=counts, server_errors=counts,
    latency=st.builds(Latency, counts=st.dictionaries(st.integers(0, 5), st.integers(1, 9), max_size=4)),
)  # fmt: skip


@given(traffics, traffics)
def test_traffic_added_in_parts_is_the_whole(one: Traffic, other: Traffic) -> None:
    whole = rules.together(one, other)
    assert rules.together(one, rules.grown(one, whole)) == whole
    assert rules.grown(whole, whole) == Traffic()


@given(st.integers(1, 100), st.integers(0, 500))
def test_stage_has_at_least_its_share_and_at_least_one(share: int, matching: int) -> None:
    seats = wanted_seats(share, matching)
    assert share * matching / 100 <= seats < share * matching / 100 + 1
    assert seats >= min(1, matching)


class Fleet:
    """Devices of which some are bad with the new version; asks the rule as the loop does, and obeys it."""

    def __init__(self, bad: list[bool], away: list[bool], min_healthy: float) -> None:
        self.rollout = msgspec.structs.replace(ROLLOUT, min_healthy=min_healthy)
        self.seats = [Seat(device=f"dev_{i}", near=not gone) for i, gone in enumerate(away)]
        self.bad = {f"dev_{i}" for i, is_bad in enumerate(bad) if is_bad}
        self.now = 0.0
        self.most = 0

    def step(self) -> None:
        turn = take_turn(self.rollout, self.seats, self.now)
        if turn.state is not self.rollout.state:
            ROLLOUT_MOVES.check("r", self.rollout.state, turn.state)
        self.rollout = msgspec.structs.replace(
            self.rollout, state=turn.state, stage=turn.stage, passed_at=turn.passed_at, message=turn.message
        )
        back = turn.state is RolloutState.ROLLING_BACK
        self.seats = [self._obeyed(seat, turn.assign, back) for seat in self.seats]
        self.now += 30.0

    def _obeyed(self, seat: Seat, assign: tuple[str, ...], back: bool) -> Seat:
        mine = seat.mine or seat.device in assign
        outcome = seat.outcome
        if mine and seat.near:
            bad = seat.device in self.bad and not back
            outcome = DeviceOutcome.FAILED if bad else DeviceOutcome.HEALTHY
        return Seat(device=seat.device, mine=mine, outcome=outcome, near=seat.near)


fleets = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=25)


@given(fleets, st.sampled_from([0.5, 0.9, 1.0]))
def test_rollout_ends_and_ends_well_only_if_enough_devices_are(devices: list[tuple[bool, bool]], least: float) -> None:
    fleet = Fleet([bad for bad, _ in devices], [away for _, away in devices], least)
    seen = []
    for _ in range(60):
        before = sum(seat.mine for seat in fleet.seats)
        fleet.step()
        added = sum(seat.mine for seat in fleet.seats) - before
        seen.append((fleet.rollout.stage, added))
        told = [seat for seat in fleet.seats if seat.mine]
        stage_seats = wanted_seats(ROLLOUT.stages[fleet.rollout.stage], len(fleet.seats))
        assert len(told) <= stage_seats, "more devices than the stage is for"
        failed = sum(seat.outcome is DeviceOutcome.FAILED for seat in told)
        if fleet.rollout.state is RolloutState.DONE:
            assert failed <= (1 - least) * len(told) + 1e-9
        if fleet.rollout.state in (RolloutState.DONE, RolloutState.ROLLED_BACK):
            return
    # Only devices that nobody hears of can keep it from ending.
    assert not any(seat.near and not seat.mine and seat.device not in fleet.bad for seat in fleet.seats) or all(
        not seat.near or seat.outcome is DeviceOutcome.FAILED for seat in fleet.seats if seat.mine
    )


def seats(**counts_: int) -> list[Seat]:
    found = []
    for word, count in counts_.items():
        outcome = DeviceOutcome(word) if word != "open" else DeviceOutcome.PENDING
        found += [Seat(device=f"{word}{i}", mine=word != "open", outcome=outcome) for i in range(count)]
    return found


def test_rollout_of_nothing_but_silence_waits() -> None:
    turn = take_turn(ROLLOUT, [Seat(device="a", free=False, near=False)], 0.0)
    assert (turn.state, turn.stage, turn.assign) == (RolloutState.RUNNING, 0, ())


def test_first_stage_takes_the_devices_that_are_near() -> None:
    near, away = Seat(device="near"), [Seat(device=f"away{i}", near=False) for i in range(9)]
    assert take_turn(ROLLOUT, [*away, near], 0.0).assign == ("near",)


def test_stage_that_is_healthy_waits_out_its_pause() -> None:
    some = seats(healthy=1, open=9)
    turn = take_turn(ROLLOUT, some, 100.0)
    assert (turn.stage, turn.passed_at) == (0, 100.0)
    passed = msgspec.structs.replace(ROLLOUT, passed_at=100.0)
    assert take_turn(passed, some, 159.0).stage == 0
    assert take_turn(passed, some, 160.0).stage == 1


def test_rollout_that_waits_for_a_device_does_not_count_its_pause() -> None:
    turn = take_turn(msgspec.structs.replace(ROLLOUT, passed_at=0.0), seats(healthy=1, probation=1, open=8), 500.0)
    assert (turn.stage, turn.passed_at) == (0, None)


def test_rollout_goes_back_when_too_many_failed_even_while_paused() -> None:
    for state in (RolloutState.RUNNING, RolloutState.PAUSED):
        turn = take_turn(msgspec.structs.replace(ROLLOUT, state=state), seats(failed=1, healthy=3, open=6), 0.0)
        assert turn.state is RolloutState.ROLLING_BACK
        assert turn.message.startswith("1 of 4 devices gave up m version 2")


def test_rollout_that_is_paused_tells_nobody() -> None:
    paused = msgspec.structs.replace(ROLLOUT, state=RolloutState.PAUSED)
    assert take_turn(paused, seats(open=9), 0.0) == rules.RolloutTurn(RolloutState.PAUSED, 0, None, "")
