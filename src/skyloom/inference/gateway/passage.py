"""One request on its way through the gateway."""

from skyloom.inference.gateway.crew import BackendLane
from skyloom.inference.wire.messages import Request
from skyloom.inference.wire.site import Streaming


class Passage:
    """A request, where it goes and how far it got.

    Attributes:
        exchange: who waits; None for a shadow's copy, whose answer nobody wants.
        is_call: it is a gRPC call.
        draw: its chance; kept, so that the same weights send it the same way when it is asked again.
        revision: whom it goes to; "" while nobody takes any.
        lane: who has it now.
        tried: who had it before.
        number: how manieth of its endpoint it is.
        num_tries: how often it was sent.
        begun_at: when the head of an answer in parts was given; None before.
        is_over: it is answered, or nobody waits.
        was_held: it had to wait.
        hold_until: it waits no longer than this.
        deadline: its caller waits no longer than this; None when it does not say.
    """

    __slots__ = (
        "arrived_at",
        "begun_at",
        "deadline",
        "draw",
        "exchange",
        "hold_until",
        "is_call",
        "is_over",
        "lane",
        "num_tries",
        "number",
        "request",
        "revision",
        "size_bytes",
        "tried",
        "was_held",
    )

    def __init__(self, request: Request, exchange: Streaming | None, draw: float, *, is_call: bool) -> None:
        self.request = request
        self.exchange = exchange
        self.is_call = is_call
        self.draw = draw
        self.revision = ""
        self.lane: BackendLane | None = None
        self.tried: tuple[BackendLane, ...] = ()
        self.num_tries = self.number = 0
        self.is_over = self.was_held = False
        self.arrived_at = request.arrived_at
        self.size_bytes = len(request.body)
        self.hold_until = self.arrived_at
        self.deadline: float | None = None
        self.begun_at: float | None = None
