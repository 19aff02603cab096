import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.events import Noted
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Right
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import EVENTS, Outbox
from skyloom.ports.store import changed
from skyloom.rooms.tenancy import model, retention, rules
from skyloom.rooms.tenancy.model import AuditEntry, Role
from skyloom.rooms.tenancy.ports import AUDIT, AUDIT_STARTS, REPLAYS, TOKENS, Replay
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.stores.memory import MemoryStore


def a_tenancy() -> tuple[Tenancy, MemoryStore, MemoryClock]:
    store, clock = MemoryStore(), MemoryClock()
    return Tenancy(store, clock, CountingIds(), b"k" * 32), store, clock


def test_roles_no_role_but_admin_administers() -> None:
    assert [role for role in Role if Right.ADMIN in rules.RIGHTS[role]] == [Role.ADMIN]


def test_install_token_opens_every_project() -> None:
    tenancy, _, _ = a_tenancy()
    secret = tenancy.install()
    assert tenancy.authenticate(secret, "default").rights == frozenset(Right)
    with pytest.raises(model.ProjectMissing):
        tenancy.authenticate(secret, "absent")


@pytest.mark.parametrize(
    "secret", ["", "sky_", "x" * 2000, "sky_task.job_a.1.0.", "sky_task..", "' OR 1=1 --", "\udcff"]
)
def test_authenticate_unknown_secret_is_refused(secret: str) -> None:
    tenancy, _, _ = a_tenancy()
    tenancy.install()
    with pytest.raises(model.NoToken):
        tenancy.authenticate(secret, "default")


def test_authenticate_foreign_project_looks_absent() -> None:
    tenancy, store, _ = a_tenancy()
    owner = tenancy.authenticate(tenancy.install(), "default")
    store.write(lambda tx: tenancy.create_project(tx, model.CreateProject(name="other"), owner))
    issued = store.write(lambda tx: tenancy.create_token(tx, model.CreateToken(name="t"), owner))
    with pytest.raises(model.ProjectMissing) as foreign:
        tenancy.authenticate(issued.secret, "other")
    with pytest.raises(model.ProjectMissing) as absent:
        tenancy.authenticate(issued.secret, "nowhere")
    assert str(foreign.value).replace("other", "nowhere") == str(absent.value)


def test_token_expired_or_revoked_is_refused_at_once() -> None:
    tenancy, store, clock = a_tenancy()
    owner = tenancy.authenticate(tenancy.install(), "default")
    short = store.write(lambda tx: tenancy.create_token(tx, model.CreateToken(name="a", ttl_s=60), owner))
    long = store.write(lambda tx: tenancy.create_token(tx, model.CreateToken(name="b"), owner))
    assert tenancy.authenticate(short.secret, "default").principal == "a"
    clock.advance(61)
    with pytest.raises(model.NoToken):
        tenancy.authenticate(short.secret, "default")
    store.write(lambda tx: tenancy.revoke_token(tx, model.RevokeToken(token_id=long.token.id), owner))
    with pytest.raises(model.NoToken):
        tenancy.authenticate(long.secret, "default")


def test_list_tokens_never_shows_digests() -> None:
    tenancy, store, _ = a_tenancy()
    owner = tenancy.authenticate(tenancy.install(), "default")
    store.write(lambda tx: tenancy.create_token(tx, model.CreateToken(name="a"), owner))
    listed = tenancy.list_tokens(model.ListTokens(), owner).items
    assert listed and all(token.digest == "" for token in listed)
    assert all(token.digest for token in store.read(lambda view: view.select(TOKENS)))


def test_task_token_speaks_only_while_its_task_lives() -> None:
    tenancy, _, _ = a_tenancy()
    tenancy.install()
    secret = tenancy.task_secret("job_a.1.0")
    with pytest.raises(model.NoToken):
        tenancy.authenticate(secret, "default")
    tenancy.project_of_live_task = lambda task_id: "default" if task_id == "job_a.1.0" else None
    caller = tenancy.authenticate(secret, "default")
    assert (caller.task_id, Right.RUN in caller.rights) == ("job_a.1.0", False)
    with pytest.raises(model.NoToken):
        tenancy.authenticate(secret.replace("job_a.1.0", "job_a.1.1"), "default")
    with pytest.raises(model.ProjectMissing):
        tenancy.authenticate(secret, "other")


entries = st.builds(
    AuditEntry,
    at=st.just(1.0),
    principal=st.text(max_size=5),
    project=st.just("p"),
    operation=st.just("jobs.submit"),
    subject=st.text(max_size=5),
    request=st.just(""),
    outcome=st.just("done"),
    previous=st.just(""),
    hash=st.just(""),
)


@given(raw=st.lists(entries, min_size=2, max_size=6), where=st.integers(0, 5))
def test_audit_chain_shows_every_edit_and_removal(raw: list[AuditEntry], where: int) -> None:
    chain: list[AuditEntry] = []
    for entry in raw:
        chain.append(rules.chained(entry, chain[-1].hash if chain else ""))
    assert rules.broken_link(chain) is None
    where %= len(chain)
    edited = [*chain]
    edited[where] = changed(edited[where], {"principal": edited[where].principal + "!"})  # type: ignore[type-var]
    assert rules.broken_link(edited) == where
    if where < len(chain) - 1:
        assert rules.broken_link(chain[:where] + chain[where + 1 :]) == where


def test_audit_in_service_chains_across_transactions() -> None:
    tenancy, store, _ = a_tenancy()
    owner = tenancy.authenticate(tenancy.install(), "default")
    for number in range(3):
        store.write(lambda tx, n=number: tenancy.audit(tx, model.CreateToken(name=f"t{n}"), owner, "", "done"))
    chain = [entry for _, entry in store.read(lambda view: view.entries(AUDIT))]
    assert len(chain) == 3 and rules.broken_link(chain) is None


def test_tick_forgets_answers_of_repeated_requests_after_a_week() -> None:
    tenancy, store, clock = a_tenancy()
    for day in range(10):
        replay = Replay(id=f"p/t/{day}", project="p", request="", answer=b"{}", made_at=clock.now())
        store.write(lambda tx, replay=replay: tx.insert(REPLAYS, replay))
        clock.advance(86_400)
    tenancy.tick()
    assert [item.id for item in store.read(lambda view: view.select(REPLAYS))] == [f"p/t/{day}" for day in range(3, 10)]
    clock.advance(1)
    assert 0 < tenancy.tick() < 3_600


def test_retention_forgets_old_events_and_audit_in_steps_and_the_rest_still_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "_SOME", 2)
    tenancy, store, clock = a_tenancy()
    owner = tenancy.authenticate(tenancy.install(), "default")
    outbox, day_s = Outbox(clock), 86_400.0

    def happen(number: int) -> None:
        store.write(lambda tx: tenancy.audit(tx, model.CreateToken(name=f"t{number}"), owner, "", "done"))
        store.write(lambda tx: outbox.publish(tx, "default", f"e{number}", Noted(message="x")))

    for number in range(5):
        happen(number)
    clock.advance(50 * day_s)
    happen(5)
    keeper = retention.Retention(store, clock, keep_events_s=90 * day_s, keep_audit_s=400 * day_s)
    assert keeper.tick() == 3_600.0
    clock.advance(41 * day_s)
    assert [keeper.tick() for _ in range(3)] == [1.0, 1.0, 3_600.0]
    assert [event.subject for _, event in store.read(lambda view: view.entries(EVENTS))] == ["e5"]
    assert len(store.read(lambda view: view.entries(AUDIT))) == 6
    clock.advance(310 * day_s)
    assert [keeper.tick() for _ in range(3)] == [1.0, 1.0, 3_600.0]
    ((number, left),) = store.read(lambda view: view.entries(AUDIT))
    (start,) = store.read(lambda view: view.select(AUDIT_STARTS))
    assert (start.number, rules.broken_link([left], start.hash), rules.broken_link([left])) == (number - 1, None, 0)
    clock.advance(1_000 * day_s)
    assert keeper.tick() == 3_600.0 and len(store.read(lambda view: view.entries(AUDIT))) == 1
