"""A control plane with functions, over memory; who answers calls is the test."""

from collections.abc import Callable

from skyloom.core import digests
from skyloom.core.events import EventBody
from skyloom.core.operation import Caller
from skyloom.ports.door import Change, Outbox, because
from skyloom.rooms.arrays.service import Arrays
from skyloom.rooms.functions import model
from skyloom.rooms.functions.causes import cause_of
from skyloom.rooms.functions.ended import EndedCalls
from skyloom.rooms.functions.model import FunctionStatus, Invocation
from skyloom.rooms.functions.ports import INVOCATIONS, Errand, ErrandResult
from skyloom.rooms.functions.service import Functions
from skyloom.rooms.registry.bundle import BundleFile, Manifest, RuntimeName, Signature
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.rooms.registry.services import Answering, ServiceMethod, ServiceParameter, ServiceSpec
from skyloom.rooms.schedules.service import Schedules
from skyloom.rooms.templates.service import Templates
from skyloom.rooms.tenancy import model as tenancy_model
from skyloom.rooms.tenancy.model import Role
from skyloom.rooms.triggers.bodies import HookBodies
from skyloom.rooms.triggers.running import Runner
from skyloom.rooms.triggers.service import Triggers
from tests.rooms.serving.bench import ME, Bench

GREET = ServiceMethod(
    name="greet",
    parameters=(
        ServiceParameter(name="name", annotation="str", schema="{}"),
        ServiceParameter(name="idempotency_key", annotation="str", schema="{}", required=False),
    ),
)
ON_EVENT = ServiceMethod(
    name="on_event", parameters=(ServiceParameter(name="event", annotation="TriggerEvent", schema="{}"),)
)
POUR = ServiceMethod(name="pour", answering=Answering.PARTS)


class MemoryErrands:
    """Errands that are answered when the test says so."""

    def __init__(self) -> None:
        self.done: Callable[[], None] = lambda: None
        self.begun: list[Errand] = []
        self.waiting: dict[str, Errand] = {}
        self._results: list[ErrandResult] = []

    def begin(self, errand: Errand) -> None:
        self.begun.append(errand)
        self.waiting[errand.id] = errand

    def results(self) -> list[ErrandResult]:
        taken, self._results = self._results, []
        for one in taken:
            self.waiting.pop(one.id, None)
        return taken

    def open(self) -> frozenset[str]:
        return frozenset(self.waiting)

    def close(self) -> None:
        pass

    def answer(self, status: int = 200, content: bytes = b'"done"', problem: str = "") -> Errand:
        """Answer the one that has waited longest."""
        answered = {one.id for one in self._results}
        errand = next(one for one in self.waiting.values() if one.id not in answered)
        self._results.append(ErrandResult(id=errand.id, status=status, content=content, problem=problem))
        return errand


class Workroom(Bench):
    """See the module. ``ME`` has a token of the owner's; `caller` makes others."""

    answer_bytes = 10_000_000

    def __init__(self, *methods: ServiceMethod) -> None:
        self.outbox: Outbox
        super().__init__()
        self.me = self.caller(Role.ADMIN)
        self.put_up(*(methods or (GREET,)))

    def start(self, phase: str = "", number: int = 0) -> None:
        super().start(phase, number)
        self.outbox = Outbox(self.clock)
        self.errands = MemoryErrands()
        ended = EndedCalls(self.answer_bytes)
        self.functions = Functions(self.store, self.clock, self.ids, self.tenancy, self.serving, self.errands, ended)
        arrays = Arrays(self.store, self.clock, self.ids, self.blobs, self.jobs)
        schedules = Schedules(self.store, self.clock, self.ids, self.outbox, self.jobs, self.tenancy.lost_right)
        self.templates = Templates(self.store, self.clock, self.ids, self.jobs, arrays, schedules)
        runner = Runner(self.ids, self.functions, self.templates, self.jobs, None)  # type: ignore[arg-type]
        self.bodies = HookBodies(self.store, self.clock, 7 * 86_400.0, 100_000)
        self.triggers = Triggers(
            self.store,
            self.clock,
            self.ids,
            self.outbox,
            self.tenancy,
            self.functions,
            runner,
            self.bodies,
            lambda name: f"s {name}",
        )

    def caller(self, role: Role, **more: object) -> Caller:
        ask = tenancy_model.CreateToken(name=f"{role.value}-{len(more)}", role=role)
        secret = self.store.write(lambda tx: self.tenancy._issue(tx, ask, ME.project)).secret
        return self.tenancy.authenticate(secret, ME.project)

    def put_up(self, *methods: ServiceMethod, name: str = "hello", **options: object) -> FunctionStatus:
        """Register a service with these methods and deploy it as a function."""
        text = repr((methods, self.ids.new("t"))).encode()
        digest, size_bytes = self.blobs.put([text])
        assert digest == digests.of_bytes(text)
        manifest = Manifest(
            runtime=RuntimeName.SERVICE,
            signature=Signature(inputs=(), outputs=()),
            files=(BundleFile(path="service/a.py", digest=digest, size_bytes=size_bytes),),
            service=ServiceSpec(entry="service/a.py", class_name="A", methods=methods),
        )
        ask = RegisterModelVersion(model=name, manifest=manifest)
        version = self.store.write(lambda tx: self.registry.register(tx, ask, ME))
        put = model.DeployFunction(name=name, version=version.number, max_attempts=3, **options)  # type: ignore[arg-type]
        made: FunctionStatus = self.do(put)
        for _ in range(3):
            self.round()
        return made

    def do(self, ask: object, by: Caller | None = None) -> object:  # type: ignore[override]
        """As the door does."""
        by = by or self.me
        handler = self.handlers()[type(ask)]
        if not isinstance(handler, Change):
            return handler.run(ask, by)
        if handler.before:
            handler.before(ask, by)

        def work(tx: object) -> object:
            with because(cause_of(tx, by)):  # type: ignore[arg-type]
                return handler.run(tx, ask, by)  # type: ignore[arg-type]

        return self.store.write(work)  # type: ignore[arg-type]

    def handlers(self) -> dict[type, object]:
        return {**self.functions.handlers(), **self.triggers.handlers(), **self.templates.handlers()}

    def happen(self, subject: str, body: EventBody) -> None:
        self.store.write(lambda tx: self.outbox.publish(tx, ME.project, subject, body))

    @property
    def calls(self) -> list[Invocation]:
        return self.disk.read(lambda view: view.select(INVOCATIONS))
