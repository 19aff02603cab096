"""Secrets over memory adapters: kept sealed, given to jobs, told to nobody."""

import msgspec
import pytest

from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.ports.engine import Command
from skyloom.ports.sealing import SealBroken
from skyloom.ports.store import changed
from skyloom.rooms.jobs.model import JobSpec, JobState, Reason, SubmitJob
from skyloom.rooms.secrets.model import (
    DeleteSecret,
    ListSecrets,
    SecretMissing,
    SecretMisused,
    SecretUse,
    SetSecret,
)
from skyloom.rooms.secrets.ports import DATA_KEYS, SECRETS
from skyloom.rooms.secrets.service import Secrets
from skyloom.stores.sealing import AesGcmSealer
from tests.rooms.workshop import ANN, BOB, Workshop

PASSWORD = "c4nary-p4ssword"
USES = (SecretUse(name="db"), SecretUse(name="db", variable="DB_PASSWORD"))


class Bench:
    def __init__(self) -> None:
        self.shop = Workshop()
        assert self.shop.plans.secrets is not None
        self.secrets = self.shop.plans.secrets

    def set(self, name: str = "db", value: str = PASSWORD, by: Caller = ANN) -> int:
        return self.shop.store.write(lambda tx: self.secrets.set(tx, SetSecret(name=name, value=value), by)).number

    def submit(self, *uses: SecretUse, retries: int = 0) -> str:
        ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), secrets=uses, max_retries=retries))
        return self.shop.store.write(lambda tx: self.shop.jobs.submit(tx, ask, ANN)).job.id


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_secret_reaches_the_plan_of_a_task_and_no_record(bench: Bench) -> None:
    bench.set()
    bench.submit(*USES)
    bench.shop.loop.tick()
    plan = bench.shop.engine.launched[0]
    assert plan.secret_files["SECRET_DB"] == PASSWORD
    assert plan.secret_variables == {"DB_PASSWORD": PASSWORD}
    assert PASSWORD not in str(plan.environment) and PASSWORD not in str(plan.entry)
    records, logs = bench.shop.store._copy()
    assert PASSWORD.encode() not in msgspec.json.encode([records, logs])
    assert PASSWORD not in repr(bench.secrets.open(USES, "p"))


def test_secret_set_again_is_what_the_next_attempt_gets(bench: Bench) -> None:
    assert bench.set() == 1
    job_id = bench.submit(SecretUse(name="db", variable="V"), retries=1)
    bench.shop.loop.tick()
    assert bench.set(value="new") == 2
    bench.shop.engine.finish(f"{job_id}.1.0", 1)
    for _ in range(3):
        bench.shop.loop.tick()
    assert [plan.secret_variables["V"] for plan in bench.shop.engine.launched] == [PASSWORD, "new"]


def test_secret_list_tells_names_of_the_project_only(bench: Bench) -> None:
    bench.set()
    bench.set("theirs", by=BOB)
    told = bench.secrets.list(ListSecrets(), ANN)
    assert [(one.name, one.number, one.set_by) for one in told.items] == [("db", 1, "ann")]
    assert PASSWORD.encode() not in msgspec.json.encode(told)


def test_secret_of_somebody_else_looks_absent_to_jobs_and_people(bench: Bench) -> None:
    bench.set("theirs", by=BOB)
    with pytest.raises(SecretMissing):
        bench.submit(SecretUse(name="theirs"))
    with pytest.raises(SecretMissing):
        bench.shop.store.write(lambda tx: bench.secrets.delete(tx, DeleteSecret(name="theirs"), ANN))


@pytest.mark.parametrize("variables", [("A", "A"), ("SKYLOOM_TOKEN",), ("skyloom_x",)])
def test_variable_that_cannot_hold_a_secret_is_refused(bench: Bench, variables: tuple[str, ...]) -> None:
    bench.set()
    with pytest.raises(SecretMisused):
        bench.submit(*(SecretUse(name="db", variable=variable) for variable in variables))


def test_job_whose_secret_was_deleted_before_its_start_fails_and_says_so(bench: Bench) -> None:
    bench.set()
    job_id = bench.submit(SecretUse(name="db"))
    bench.shop.store.write(lambda tx: bench.secrets.delete(tx, DeleteSecret(name="db"), ANN))
    for _ in range(8):
        bench.shop.loop.tick()
    told = bench.shop.store.read(lambda view: bench.shop.jobs.status(view, job_id, "p"))
    assert (told.state, told.reason) == (JobState.FAILED, Reason.LAUNCH_FAILED)
    assert "no secret 'db'" in told.message


def test_secrets_of_two_projects_have_two_keys(bench: Bench) -> None:
    bench.set()
    bench.set(by=BOB)
    keys = bench.shop.store.read(lambda view: view.select(DATA_KEYS))
    assert len({key.sealed for key in keys}) == 2


def test_sealed_value_put_in_the_place_of_another_is_refused(bench: Bench) -> None:
    bench.set()
    bench.set("low", "nothing special")

    def swap(tx):  # type: ignore[no-untyped-def]
        db, low = (tx.select(SECRETS, {"name": name})[0] for name in ("db", "low"))
        tx.update(SECRETS, changed(low, {"sealed": db.sealed}))

    bench.shop.store.write(swap)
    with pytest.raises(SealBroken):
        bench.secrets.open((SecretUse(name="low"),), "p")


def test_secret_under_another_master_key_is_refused_with_what_to_do(bench: Bench) -> None:
    bench.set()
    shop = bench.shop
    other = Secrets(shop.store, shop.clock, CountingIds(), AesGcmSealer(), b"x" * 32)
    with pytest.raises(SealBroken) as raised:
        other.open((SecretUse(name="db"),), "p")
    assert "master key" in raised.value.next_action


@pytest.mark.parametrize("name", ["", "UPPER", "a_b", "../x", "-a", "a-", "a" * 65, "a b", "a\n"])
def test_secret_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": name, "value": "x"}, SetSecret)
