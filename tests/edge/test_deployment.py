"""What a device serves, decided: whatever is told, whatever crashes, it ends at something that has held."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from skyloom.edge import deployment as rules
from skyloom.edge.deployment import MAX_STARTS, Deployment, EdgeStep, Installed
from skyloom.rooms.devices.messages import Assignment, DeviceOutcome

DIGEST = "sha256:" + "0" * 60


def assignment(number: int, version: int | None) -> Assignment:
    if version is None:
        return Assignment(number=number)
    return Assignment(
        number=number,
        version=f"v{version}",
        model="m",
        label=str(version),
        manifest=f"{DIGEST}{version:04d}",
        probation_s=1.0,
    )


def installed(told: Assignment) -> Installed:
    assert told.manifest
    return Installed(version=told.version, model=told.model, label=told.label, manifest=told.manifest)


class Machine:
    """A device whose versions below 10 are good, below 20 crash at once, below 30 fail their first test, and the rest fare badly."""

    def __init__(self) -> None:
        self.now_is = Deployment()
        self.disk: set[str] = set()
        self.last_good: Installed | None = None
        self.number = 0

    def tell(self, version: int | None, number: int | None = None) -> None:
        told = assignment(self.number if number is None else number, version)
        before = self.now_is
        step = rules.step_of(before, told)
        if told.number <= before.number:
            assert step is EdgeStep.NOTHING, "an older assignment is refused"
        if step is EdgeStep.KEEP:
            self.now_is = rules.kept_on(before, told)
        elif step is EdgeStep.STOP:
            self.now_is, self.last_good = rules.stopped(before, told), None
        elif step is EdgeStep.INSTALL:
            made = installed(told)
            if 20 <= int(made.label) < 30:
                self.now_is = rules.refused(before, told, "no")
            else:
                self.disk.add(made.folder)
                self.now_is = rules.switched(before, told, made)

    def start(self, lives: bool) -> None:
        """A process begins; it may be killed before anything else happens."""
        self.now_is = rules.begun(self.now_is)
        current = self.now_is.current
        if not lives or current is None or not self.now_is.on_trial or 10 <= int(current.label) < 20:
            return
        if int(current.label) >= 30:
            self.now_is = rules.given_up(self.now_is, "bad")
        else:
            self.now_is = rules.held(self.now_is)
            self.last_good = current

    def tidy(self) -> None:
        self.disk &= self.now_is.kept

    def check(self) -> None:
        assert self.now_is.kept <= self.disk, "the file names a bundle that is not on disk"
        if not self.now_is.on_trial:
            assert self.now_is.current == self.last_good, "what is served has never held"


versions = st.one_of(st.none(), st.integers(0, 3), st.integers(10, 12), st.integers(20, 21), st.integers(30, 31))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("tell"), versions), st.tuples(st.just("start"), st.booleans()), st.just(("tidy", None))
    ),
    max_size=50,
)


@given(steps)
def test_device_ends_at_something_that_has_held_whatever_happens(script):
    machine = Machine()
    for word, value in script:
        if word == "tell":
            machine.number += 1
            machine.tell(value)
            machine.tell(1, number=machine.number - 1)
        elif word == "start":
            machine.start(value)
        else:
            machine.tidy()
        machine.check()
    for _ in range(MAX_STARTS + 1):
        machine.start(True)
        machine.check()
    assert not machine.now_is.on_trial
    assert machine.now_is.current == machine.last_good


def test_version_that_crashes_is_given_up_after_three_starts_and_says_so():
    machine = Machine()
    machine.number = 1
    machine.tell(1)
    machine.start(True)
    machine.number = 2
    machine.tell(11)
    for _ in range(MAX_STARTS):
        machine.start(True)
        assert machine.now_is.current.label == "11"
    machine.start(True)
    assert (machine.now_is.current.label, machine.now_is.outcome) == ("1", DeviceOutcome.FAILED)
    assert "It ended 3 times" in machine.now_is.message


def test_bundle_that_was_damaged_on_disk_is_fetched_anew():
    told = assignment(5, 1)
    served = rules.held(rules.switched(Deployment(), told, installed(told)))
    damaged = rules.damaged(served, "bits")
    assert (damaged.current, rules.step_of(damaged, told)) == (None, EdgeStep.INSTALL)


def test_bundles_that_were_damaged_one_after_the_other_let_no_older_assignment_in():
    one, two = assignment(4, 1), assignment(5, 2)
    served = rules.held(rules.switched(Deployment(), one, installed(one)))
    served = rules.held(rules.switched(served, two, installed(two)))
    for _ in range(2):
        served = rules.damaged(served, "bits")
        assert rules.step_of(served, one) is EdgeStep.NOTHING
    assert rules.step_of(served, two) is EdgeStep.INSTALL
    assert rules.step_of(rules.refused(served, two, "no"), two) is EdgeStep.NOTHING


def test_device_that_joins_as_another_counts_anew_and_serves_on():
    told = assignment(7, 1)
    served = rules.held(rules.switched(rules.under(Deployment(), "dev_1"), told, installed(told)))
    assert rules.under(served, "dev_1") == served
    other = rules.under(served, "dev_2")
    assert (other.number, other.current) == (0, served.current)
    assert rules.step_of(other, assignment(1, 2)) is EdgeStep.INSTALL
    for after in (rules.stopped(other, told), rules.given_up(other, ""), rules.damaged(other, "")):
        assert after.device == "dev_2"


def test_process_that_is_told_to_end_says_nothing_against_what_is_on_trial():
    told = assignment(1, 1)
    now_is = rules.switched(Deployment(), told, installed(told))
    for _ in range(3 * MAX_STARTS):
        now_is = rules.ended(rules.begun(now_is))
        assert (now_is.on_trial, now_is.starts) == (True, 0)


@given(st.integers(0, 10**6))
def test_counters_are_written_seldom_while_nobody_answers(failures):
    assert 10.0 <= rules.count_pause_s(failures, 10.0) <= 600.0


def test_same_version_again_is_kept_and_one_on_trial_is_no_fallback():
    told = assignment(1, 1)
    trial = rules.switched(Deployment(), told, installed(told))
    assert rules.step_of(rules.held(trial), assignment(2, 1)) is EdgeStep.KEEP
    assert rules.switched(trial, assignment(2, 2), installed(assignment(2, 2))).previous is None


@given(st.integers(0, 200), st.floats(0, 0.999), st.floats(0.1, 86_400))
def test_pause_is_bounded_and_spread(failures, chance, interval_s):
    pause_s = rules.pause_s(failures, chance, interval_s)
    assert 0.09 <= pause_s <= max(900.0, 1.1 * interval_s)
    if failures == 0:
        assert abs(pause_s - interval_s) <= 0.11 * interval_s


def test_model_fares_badly_only_with_enough_errors():
    assert not rules.fares_badly(4, 4)
    assert rules.fares_badly(5, 5)
    assert not rules.fares_badly(1_000, 100)
    assert rules.fares_badly(1_000, 101)


def test_deployment_outlives_its_file():
    made = rules.switched(Deployment(), assignment(1, 1), installed(assignment(1, 1)))
    assert msgspec.json.decode(msgspec.json.encode(made), type=Deployment) == made
