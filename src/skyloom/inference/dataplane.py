"""One answer, two faces: what REST and gRPC both ask. Knows tokens, names and the queue; knows no bytes of either wire."""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from skyloom import __version__
from skyloom.core.errors import NotFound
from skyloom.inference.access import AccessList
from skyloom.inference.batcher import Batcher, ReplicaDraining, Ticket
from skyloom.inference.description import ModelConfig, configured
from skyloom.inference.forms import Form
from skyloom.inference.journal import PredictionLog
from skyloom.inference.priorities import PriorityBatcher, QueueLane
from skyloom.inference.statistics import ModelStatistics, Timekeeper
from skyloom.inference.tensors import Call, Contract
from skyloom.inference.traffic import TrafficCounter
from skyloom.rooms.registry.bundle import Datatype, TensorSpec
from skyloom.rooms.serving.plan import ServePlan

if TYPE_CHECKING:
    from skyloom.inference.packing.guests import GuestHouse
    from skyloom.inference.response_cache import ResponseCache
    from skyloom.inference.wire.offer_desk import OfferDesk

SERVER_NAME = "skyloom"
# Those of the protocol's extensions that are kept whole. Trace, logging and shared memory are answered, but cannot be used.
EXTENSIONS = (
    "binary_tensor_data",
    "generate",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)


class ModelUnknown(NotFound):
    """This replica serves another model or version."""


class ServerMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET /v2``."""

    name: str = SERVER_NAME
    version: str = __version__
    extensions: tuple[str, ...] = EXTENSIONS


class TensorMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor in a model's metadata."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET /v2/models/{name}``."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class DataPlane:
    """One replica of one model."""

    def __init__(
        self,
        plan: ServePlan,
        contract: Contract,
        batcher: Batcher,
        journal: PredictionLog,
        traffic: TrafficCounter,
        access: AccessList,
        platform: str = "onnxruntime_onnx",
        form: Form | None = None,
    ) -> None:
        self.guests: GuestHouse | None = None  # the models beside this one
        self.cache: ResponseCache | None = None  # answers that were given before, of all models of the replica
        self.intake: OfferDesk | None = None  # what comes before the queue, where the endpoint offers it
        # What words its answers over either wire, where that is made when it is first asked.
        self.rest: object = None
        self.grpc: object = None
        self.plan = plan
        self._timeout_s = plan.limits.timeout_s
        self._platform = platform
        self.form = form  # None: nothing is known of what the tensors mean
        self.contract = contract
        self.traffic = traffic
        self.access = access
        self._batcher = batcher
        self._journal = journal
        self.draining = False
        self.num_preparing = 0  # requests whose pictures are still fetched or decoded
        self.can_answer: Callable[[], bool] = lambda: True  # a service's process may be down for a moment

    @property
    def ready(self) -> bool:
        """True while new requests are taken."""
        return not self.draining and not self._journal.failed and self.can_answer()

    def look_again(self) -> None:
        """Find out whether a request log that could not be written can be: behind a gateway no request would."""
        if self._journal.failed:
            self._journal.write(())

    @property
    def is_idle(self) -> bool:
        """True when no request is on its way, here and for the models beside this one."""
        taken_in = self.intake is None or self.intake.is_idle
        return (
            taken_in
            and self._batcher.is_idle
            and not self.num_preparing
            and (self.guests is None or self.guests.is_idle)
        )

    @property
    def times(self) -> Timekeeper:
        """How long requests waited and the model worked."""
        return self._batcher.times

    @property
    def lanes(self) -> Sequence[QueueLane]:
        """The lanes before the model, where there are any."""
        return self._batcher.priority_lanes if isinstance(self._batcher, PriorityBatcher) else ()

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the model."""
        return self._batcher.queued_rows

    def check_model(self, name: str, version: str) -> None:
        """Raise `ModelUnknown` unless this is the served model; an empty version means the one there is."""
        if name != self.plan.model or version not in ("", self.plan.model_version):
            asked = f"{name[:80]!r}" + (f" version {version[:80]!r}" if version else "")
            raise ModelUnknown(
                f"No model {asked} is served here.",
                next_action=f"This endpoint serves {self.plan.model!r} version {self.plan.model_version!r}.",
            )

    def infer(self, call: Call, on_done: Callable[[Ticket], None], timeout_s: float | None = None) -> Ticket:
        """Queue a call; ``on_done`` gets its ticket on the loop. Raises `QueueFull` or `ReplicaDraining` at once."""
        ticket = Ticket(call, time.perf_counter(), on_done)
        self.queue(ticket, timeout_s)
        return ticket

    def queue(self, ticket: Ticket, timeout_s: float | None = None) -> None:
        """Queue a ticket. Raises `QueueFull` or `ReplicaDraining` at once."""
        if self.draining:
            self.check_open()
        limit_s = self._timeout_s
        if timeout_s is not None and timeout_s < limit_s:
            limit_s = timeout_s
        if self.intake is None:
            self._batcher.submit(ticket, limit_s)
        else:
            self.intake.take(ticket, limit_s, self._batcher.submit)

    def give_again(self, tickets: Sequence[Ticket]) -> None:
        """Answer requests whose outputs are known: each is a prediction of its own, logged and counted."""
        if not tickets:
            return
        self._journal.write(tickets)
        for ticket in tickets:
            outputs = ticket.outputs
            if ticket.failure is None and outputs is not None:
                self.traffic.watch(ticket.call.inputs, outputs)
                self.times.gave_again(time.perf_counter() - ticket.arrived_at)
            try:
                ticket.on_done(ticket)
            except Exception:  # a defect of one answer must not keep the others waiting
                traceback.print_exc(file=sys.stderr)

    def drain(self) -> None:
        """Take nothing new."""
        self.draining = True
        if self.guests is not None:
            self.guests.drain()

    def check_open(self) -> None:
        """Raise `ReplicaDraining` when nothing new is taken."""
        if self.draining:
            raise ReplicaDraining("This replica is stopping.", next_action="Send again: another replica answers.")

    def record(self, ticket: Ticket) -> str:
        """Write an answer that did not pass the queue into the request log; return its prediction id. Raises `RequestLogFull`."""
        failure = ticket.failure
        self._journal.write([ticket])
        if ticket.failure is not None and ticket.failure is not failure:
            raise ticket.failure
        return ticket.prediction_id

    def metadata(self) -> ModelMetadata:
        """Describe the model."""
        signature = self.contract.signature
        return ModelMetadata(
            name=self.plan.model,
            versions=(self.plan.model_version,),
            platform=self._platform,
            inputs=_tensors(signature.inputs),
            outputs=_tensors(signature.outputs),
        )

    def config(self) -> ModelConfig:
        """Describe how the model is set up."""
        return configured(self.plan, self.contract.signature, self._platform)

    def statistics(self) -> ModelStatistics:
        """How long requests waited and the model worked, since this replica started."""
        return self._batcher.times.snapshot(self.plan.model, self.plan.model_version)

    def all_statistics(self) -> list[ModelStatistics]:
        """The same, of the models beside it too."""
        return [self.statistics(), *(guest.statistics() for guest in self.guests or ())]

    def close(self) -> None:
        """Let go of the model's thread and the request log."""
        self._batcher.close()
        self._journal.close()


def _tensors(specs: Sequence[TensorSpec]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs)
