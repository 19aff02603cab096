"""The rulebook as a record: what is left out stays, what makes no sense is refused, who sees whose quota."""

from typing import Any

import pytest

from skyloom.core.operation import Caller, Operation
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Change
from skyloom.rooms.scheduling import service
from skyloom.rooms.scheduling.model import Allotment, Policy
from skyloom.rooms.scheduling.ports import current_rulebook
from skyloom.rooms.scheduling.rulebook import GetQuota, GetScheduling, SetQuota, SetScheduling
from skyloom.rooms.scheduling.service import LimitsOutOfOrder, QuotasFull, QuotaUpsideDown, Scheduling
from skyloom.rooms.tenancy.model import Project, ProjectMissing
from skyloom.rooms.tenancy.ports import PROJECTS
from skyloom.stores.memory import MemoryStore

OWNER = Caller(principal="owner", project="", scope="*", rights=frozenset())
ANN = Caller(principal="ann", project="", scope="p", rights=frozenset())


class Office:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.room = Scheduling(self.store, MemoryClock())
        for name in ("p", "q"):
            project = Project(id=name, project=name, created_at=1.0)
            self.store.write(lambda tx, project=project: tx.insert(PROJECTS, project))  # type: ignore[misc]

    def do(self, ask: Operation[Any], by: Caller = OWNER) -> Any:
        handler = self.room.handlers()[type(ask)]
        if isinstance(handler, Change):
            return self.store.write(lambda tx: handler.run(tx, ask, by))
        return handler.run(ask, by)


@pytest.fixture
def office() -> Office:
    return Office()


def test_rules_that_are_left_out_stay_as_they_are(office: Office) -> None:
    office.do(SetScheduling(policy=Policy.LAS, las_limits_gpu_s=(10.0, 20.0)))
    changed = office.do(SetScheduling(preempt=False))
    assert (changed.policy, changed.las_limits_gpu_s, changed.preempt) == (Policy.LAS, (10.0, 20.0), False)
    assert office.store.read(current_rulebook) == changed == office.do(GetScheduling())


@pytest.mark.parametrize("limits", [(20.0, 10.0), (10.0, 10.0)])
def test_queue_borders_that_do_not_rise_are_refused(office: Office, limits: tuple[float, ...]) -> None:
    with pytest.raises(LimitsOutOfOrder):
        office.do(SetScheduling(las_limits_gpu_s=limits))


def test_quota_is_replaced_whole_and_seen_by_its_project_and_the_owner_only(office: Office) -> None:
    office.do(SetQuota(name="p", guaranteed=Allotment(gpus=4), ceiling=Allotment(gpus=8), weight=2.0))
    assert office.do(SetQuota(name="p", guaranteed=Allotment(gpus=2))).quota.ceiling is None
    office.do(SetQuota(name="q", weight=3.0))
    assert set(office.do(GetScheduling()).quotas) == {"p", "q"}
    assert set(office.do(GetScheduling(), ANN).quotas) == {"p"}
    assert office.do(GetQuota(name="p"), ANN).quota.guaranteed == Allotment(gpus=2)
    for ask in (GetQuota(name="q"), GetQuota(name="nobody")):
        with pytest.raises(ProjectMissing):
            office.do(ask, ANN)


def test_guarantee_above_the_ceiling_is_refused(office: Office) -> None:
    with pytest.raises(QuotaUpsideDown, match="guaranteed 4 gpus and may hold 2"):
        office.do(SetQuota(name="p", guaranteed=Allotment(gpus=4), ceiling=Allotment(gpus=2)))


def test_quotas_of_more_projects_than_the_rulebook_holds_are_refused(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_QUOTAS", 1)
    office.do(SetQuota(name="p", weight=2.0))
    with pytest.raises(QuotasFull, match="q would be one more"):
        office.do(SetQuota(name="q", weight=2.0))
    assert office.do(SetQuota(name="p", weight=3.0)).quota.weight == 3.0
