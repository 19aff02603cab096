"""Alerts, the numbers of endpoints and lineage from Python."""

from collections.abc import Sequence

from skyloom.core.operation import Page
from skyloom.rooms.lineage import model as lineage
from skyloom.rooms.lineage.model import Lineage, LineageNode
from skyloom.rooms.monitoring import model as monitoring
from skyloom.rooms.monitoring.model import Alert, AlertRule, AlertState, Monitor, Watch
from skyloom.sdk.transport import Transport


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


class WatchCalls:
    """The part of ``cloud.endpoints`` that watches them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def monitor(self, name: str, window_s: float = 60.0, num_features: int = 20) -> Monitor:
        """Rate, errors, latency and drift of an endpoint over its latest window."""
        ask = monitoring.GetMonitor(name=name, window_s=window_s, num_features=num_features)
        return self._transport.send(ask)

    def rules(self, name: str, rules: Sequence[AlertRule]) -> Watch:
        """Replace the alert rules of an endpoint."""
        return self._transport.send(monitoring.SetAlertRules(name=name, rules=tuple(rules)))


class LineageCalls:
    """``cloud.lineage``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, subject_id: str, split: str = "", after: int = -1, limit: int = 20) -> Lineage:
        """Where a prediction, endpoint, revision, model version or run comes from, down to the rows."""
        ask = lineage.GetLineage(subject_id=subject_id, split=split, after=after, limit=limit)
        return self._transport.send(ask)

    def row(self, dataset: str, row_id: int) -> LineageNode:
        """What came of one row: versions, runs, models, endpoints."""
        return self._transport.send(lineage.GetRowLineage(dataset=dataset, row_id=row_id))
