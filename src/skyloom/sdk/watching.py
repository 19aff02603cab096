"""Costs and alerts from Python."""

from skyloom.core.operation import Page
from skyloom.rooms.cost import model as cost
from skyloom.rooms.cost.model import CostBy, CostReport
from skyloom.rooms.monitoring import model as monitoring
from skyloom.rooms.monitoring.model import Alert, AlertState
from skyloom.sdk.transport import Transport


class CostCalls:
    """``cloud.costs``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, by: CostBy | str = CostBy.JOB, since: float = 0.0, limit: int = 100) -> CostReport:
        """What the project spent since a Unix time, with one row per job, run, model, endpoint or user."""
        return self._transport.send(cost.GetCost(by=CostBy(by), since=since, limit=limit))


class AlertCalls:
    """``cloud.alerts``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self,
        endpoint: str | None = None,
        state: AlertState | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Alert]:
        """Alerts, newest first."""
        ask = monitoring.ListAlerts(endpoint=endpoint, state=state, cursor=cursor, limit=limit)
        return self._transport.send(ask)

    def acknowledge(self, alert_id: str) -> Alert:
        """Say that you have seen a firing alert."""
        return self._transport.send(monitoring.AcknowledgeAlert(alert_id=alert_id))
