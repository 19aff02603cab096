"""The data plane's request log on a device: every prediction becomes a record of the outbox before it is answered.

A prediction's id is made of the run's id (one for each process) and its number in that run, so the cloud finds it without an index
once the outbox has come.
"""

import random
import time
from collections.abc import Sequence

from skyloom.edge.outbox import DeviceOutbox
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import encode_outputs
from skyloom.inference.journal import RequestLogFull
from skyloom.rooms.devices.messages import MAX_OUTPUT_CHARS, MAX_SAMPLE_BYTES, Lane, Predicted, RunBegan, Sampled
from skyloom.rooms.registry.bundle import Signature
from skyloom.rooms.serving.predictions import name_prediction


class Logbook:
    """`inference.journal.PredictionLog` over an outbox.

    Args:
        sample_share: share of the predictions whose inputs are kept too; 0 unless the device's owner says otherwise.
    """

    def __init__(
        self, outbox: DeviceOutbox, run: str, version: str, signature: Signature, sample_share: float = 0.0
    ) -> None:
        self._outbox = outbox
        self._run = run
        self._signature = signature
        self._sample_share = sample_share
        self._nth = 0
        self.failed = False
        outbox.preface = (RunBegan(run=run, version=version, at=time.time()),)

    def write(self, tickets: Sequence[Ticket]) -> None:
        now, clock = time.time(), time.perf_counter()
        records = [self._record(ticket, self._nth + place, now, clock) for place, ticket in enumerate(tickets)]
        try:
            self._outbox.write(records)
        except OSError as error:
            self.failed = True
            failure = RequestLogFull(
                "The outbox of this device cannot be written.",
                next_action="Free disk space on the device; then send again.",
            )
            failure.__cause__ = error
            for ticket in tickets:
                ticket.failure, ticket.outputs = failure, None
            return
        self.failed = False
        for place, ticket in enumerate(tickets):
            ticket.prediction_id = name_prediction(self._run, self._nth + place)
        self._nth += len(tickets)
        if self._sample_share:
            self._sample(tickets, now)

    def close(self) -> None:
        self._outbox.sync()

    def _record(self, ticket: Ticket, nth: int, now: float, clock: float) -> Predicted:
        outputs = b""
        if ticket.outputs is not None and sum(output.size for output in ticket.outputs) <= MAX_OUTPUT_CHARS // 2:
            outputs = encode_outputs(self._signature.outputs, ticket.outputs)
            if len(ticket.call.outputs) == len(ticket.outputs):
                ticket.logged_outputs = outputs
        return Predicted(
            run=self._run,
            nth=nth,
            at=now,
            rows=ticket.call.rows,
            latency_us=max(0, int((clock - ticket.arrived_at) * 1e6)),
            status=200 if ticket.failure is None else 500,
            client_id=ticket.call.client_id[:200],
            outputs=outputs.decode() if len(outputs) <= MAX_OUTPUT_CHARS else "",
        )

    def _sample(self, tickets: Sequence[Ticket], now: float) -> None:
        """Keep the inputs of some predictions. A sample that cannot be written is no reason to fail an answer."""
        first = self._nth - len(tickets)
        chosen = [place for place in range(len(tickets)) if random.random() < self._sample_share]  # noqa: S311
        samples = []
        for place in chosen:
            inputs = tickets[place].call.inputs
            if sum(tensor.nbytes for tensor in inputs) <= MAX_SAMPLE_BYTES // 4:
                text = encode_outputs(self._signature.inputs, inputs).decode()
                if len(text) <= MAX_SAMPLE_BYTES:
                    samples.append(Sampled(run=self._run, nth=first + place, at=now, inputs=text))
        if samples:
            try:
                self._outbox.write(samples, Lane.SAMPLES)
            except OSError:
                self.failed = True  # the next prediction finds out
