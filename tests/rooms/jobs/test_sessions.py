"""Who gets into a task, how often and for how long; over an engine that only counts."""

from dataclasses import dataclass, field

import pytest

from skyloom.core.errors import Conflict, NotFound
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.ports.channel import GuestCommand, TaskChannel
from skyloom.ports.engine import Ability, AbilityMissing, Command, TaskNotThere
from skyloom.rooms.jobs.model import JobSpec, OpenExec, OpenPort, Session, SubmitJob
from skyloom.rooms.jobs.sessions import (
    IDLE_S,
    MOST_CONNECTIONS,
    MOST_OPEN_OF_PROJECT,
    MOST_SESSIONS,
    UNUSED_S,
    SessionMissing,
    Sessions,
    TooManySessions,
)
from tests.rooms.workshop import ANN, BOB, Workshop

OTHER_ANN = Caller(principal="ann", project="p", scope="p", rights=frozenset(), token_id="token_2")


@dataclass
class Doors:
    """An engine of which only the inside is asked."""

    abilities: set[Ability] = field(default_factory=lambda: {Ability.EXEC, Ability.CONNECT})
    entered: list[object] = field(default_factory=list)
    refuses: bool = False

    def engine(self, pool: str) -> "Doors":
        assert pool == "local"
        return self

    def enter(self, task_id: str, command: GuestCommand) -> TaskChannel:
        return self._in(task_id, command)

    def connect(self, task_id: str, port: int) -> TaskChannel:
        return self._in(task_id, port)

    def _in(self, task_id: str, what: object) -> TaskChannel:
        if self.refuses:
            raise TaskNotThere("It does not run.", next_action="")
        self.entered.append((task_id, what))
        return object()  # type: ignore[return-value]


class Hall:
    """One running job of project p, and the sessions into it."""

    def __init__(self) -> None:
        self.shop, self.doors = Workshop(), Doors()
        self.sessions = Sessions(self.shop.clock, CountingIds(), self.doors, self.shop.jobs.status)  # type: ignore[arg-type]
        ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",))))
        self.job = self.shop.store.write(lambda tx: self.shop.jobs.submit(tx, ask, ANN)).job.id

    def run(self) -> "Hall":
        for _ in range(2):
            self.shop.loop.tick()
        return self

    def exec(self, by: Caller = ANN, rank: int = 0) -> Session:
        ask = OpenExec(job_id=self.job, argv=("ls",), rank=rank)
        return self.shop.store.write(lambda tx: self.sessions.open_exec(tx, ask, by))

    def port(self, by: Caller = ANN) -> Session:
        ask = OpenPort(job_id=self.job, port=80)
        return self.shop.store.write(lambda tx: self.sessions.open_port(tx, ask, by))


@pytest.fixture
def hall() -> Hall:
    return Hall().run()


def test_command_runs_once_and_for_who_opened_it(hall: Hall) -> None:
    session = hall.exec()
    for stranger in (BOB, OTHER_ANN):
        with pytest.raises(SessionMissing):
            hall.sessions.attach(session.id, stranger)
    hall.sessions.attach(session.id, ANN)
    with pytest.raises(SessionMissing):
        hall.sessions.attach(session.id, ANN)
    hall.sessions.leave(session.id)
    assert hall.doors.entered == [(f"{hall.job}.1.0", GuestCommand(argv=("ls",)))]


def test_command_that_nobody_came_for_is_forgotten(hall: Hall) -> None:
    session = hall.exec()
    hall.shop.clock.advance(UNUSED_S + 1)
    with pytest.raises(SessionMissing):
        hall.sessions.attach(session.id, ANN)


def test_port_is_good_until_nobody_used_it_for_long(hall: Hall) -> None:
    session = hall.port()
    for _ in range(3):
        hall.shop.clock.advance(IDLE_S - 1)
        hall.sessions.attach(session.id, ANN)
        hall.sessions.leave(session.id)
    hall.sessions.attach(session.id, ANN)
    hall.shop.clock.advance(IDLE_S * 2)
    hall.sessions.attach(session.id, ANN)  # the first connection is still open
    hall.sessions.leave(session.id)
    hall.sessions.leave(session.id)
    hall.shop.clock.advance(IDLE_S + 1)
    with pytest.raises(SessionMissing):
        hall.sessions.attach(session.id, ANN)


def test_numbers_are_bounded_and_old_sessions_make_room(hall: Hall) -> None:
    sessions = [hall.port() for _ in range(MOST_SESSIONS)]
    with pytest.raises(TooManySessions):
        hall.port()
    for _ in range(MOST_CONNECTIONS):
        hall.sessions.attach(sessions[0].id, ANN)
    with pytest.raises(TooManySessions):
        hall.sessions.attach(sessions[0].id, ANN)
    hall.shop.clock.advance(IDLE_S + 1)
    hall.port()
    hall.sessions.leave(sessions[0].id)
    hall.sessions.attach(sessions[0].id, ANN)


def test_connection_that_could_not_be_made_does_not_count(hall: Hall) -> None:
    session = hall.port()
    hall.doors.refuses = True
    for _ in range(MOST_CONNECTIONS + 1):
        with pytest.raises(TaskNotThere):
            hall.sessions.attach(session.id, ANN)
    hall.doors.refuses = False
    hall.sessions.attach(session.id, ANN)


def test_only_running_workers_of_the_own_project_have_an_inside() -> None:
    hall = Hall()
    with pytest.raises(Conflict, match="queued"):
        hall.exec()
    hall.run()
    with pytest.raises(NotFound, match="no worker 3"):
        hall.exec(rank=3)
    with pytest.raises(NotFound):
        hall.exec(by=BOB)


def test_pool_without_the_ability_says_so(hall: Hall) -> None:
    hall.doors.abilities = {Ability.EXEC}
    hall.exec()
    with pytest.raises(AbilityMissing, match="'connect'"):
        hall.port()


def test_project_that_opens_all_it_may_leaves_the_others_theirs(hall: Hall) -> None:
    mine = [hall.port() for _ in range(MOST_SESSIONS)]
    for session in mine[: MOST_OPEN_OF_PROJECT // MOST_CONNECTIONS]:
        for _ in range(MOST_CONNECTIONS):
            hall.sessions.attach(session.id, ANN)
    with pytest.raises(TooManySessions):
        hall.sessions.attach(mine[-1].id, ANN)
    ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",))))
    hall.job = hall.shop.store.write(lambda tx: hall.shop.jobs.submit(tx, ask, BOB)).job.id
    hall.run()
    hall.sessions.attach(hall.port(by=BOB).id, BOB)
