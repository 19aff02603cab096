"""Triggers from Python: when something happens, run something."""

import hmac
import time
from collections.abc import Mapping

from skyloom.core.operation import Done, Page
from skyloom.rooms.triggers import model
from skyloom.rooms.triggers.model import (
    DeliveryStatus,
    Happening,
    IssuedTrigger,
    Run,
    Trigger,
    TriggerStatus,
    When,
)
from skyloom.sdk.transport import Transport


class TriggerCalls:
    """``cloud.triggers``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        on: Happening | str,
        run: Run,
        *,
        where: Mapping[str, str] | None = None,
        cron: str | None = None,
        time_zone: str = "UTC",
        max_per_hour: int = 600,
    ) -> IssuedTrigger:
        """Run something whenever something happens, from now on, with your own rights.

        Args:
            run: `RunFunction`, `RunTemplateJob` or `RunBatch`.
            where: field → what it must be, or begin with (``digits-*``).
            cron, time_zone: of ``on="cron"``.
            max_per_hour: one that runs away is paused.
        """
        when = When(kind=Happening(on), where=dict(where or {}), cron=cron, time_zone=time_zone)
        return self._transport.send(model.CreateTrigger(name=name, when=when, run=run, max_per_hour=max_per_hour))

    def get(self, name: str) -> TriggerStatus:
        """Show a trigger and its newest deliveries."""
        return self._transport.send(model.GetTrigger(name=name))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[Trigger]:
        """List triggers, newest first."""
        return self._transport.send(model.ListTriggers(limit=limit, cursor=cursor))

    def pause(self, name: str) -> Trigger:
        """Run nothing more until it is resumed; what happens meanwhile waits."""
        return self._transport.send(model.PauseTrigger(name=name))

    def resume(self, name: str, *, skip: bool = False) -> Trigger:
        """Go on, from now on with your rights; with ``skip`` past what has happened meanwhile."""
        return self._transport.send(model.ResumeTrigger(name=name, skip=skip))

    def redeliver(self, name: str, number: int) -> DeliveryStatus:
        """Deliver again what was refused, or send its dead letter again."""
        return self._transport.send(model.Redeliver(name=name, number=number))

    def delete(self, name: str) -> Done:
        """Forget a trigger. What it began goes on."""
        return self._transport.send(model.DeleteTrigger(name=name))


def signature_of(body: bytes, secret: str, *, now: float | None = None) -> str:
    """For a caller of a trigger's address: what ``Skyloom-Signature`` has to be with these bytes."""
    moment = str(int(time.time() if now is None else now))
    return f"t={moment},v1={hmac.new(secret.encode(), moment.encode() + b'.' + body, 'sha256').hexdigest()}"
