"""The cloud at a glance, and why a thing is in its state."""

from skyloom.rooms.overview import model
from skyloom.sdk.transport import Transport


class OverviewCalls:
    """``cloud.overview``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def status(self) -> model.CloudStatus:
        """Show the cloud: version, capacity, what runs."""
        return self._transport.send(model.GetStatus())

    def why(self, subject: str) -> model.Explanation:
        """Explain why a thing is in its state, with evidence and the next action."""
        return self._transport.send(model.Why(subject=subject))
