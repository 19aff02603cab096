"""What monitoring needs stored: what is watched, and alerts. Never a measurement."""

from skyloom.ports.store import Collection
from skyloom.rooms.monitoring.model import Alert, Watch

WATCHES = Collection("watches", Watch, indexes=("active", "endpoint_name"))
# One alert per endpoint and signal, by the database itself: two open ones cannot exist.
ALERTS = Collection("alerts", Alert, indexes=("endpoint", "state"), unique=("endpoint", "signal"))

COLLECTIONS = (WATCHES, ALERTS)
