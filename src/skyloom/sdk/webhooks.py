"""Webhooks from Python; and how a receiver tells that what it got is ours."""

import hmac
import time
from collections.abc import Sequence

from skyloom.core.operation import Done, Page
from skyloom.rooms.webhooks import model
from skyloom.rooms.webhooks.model import IssuedWebhook, NewsKind, Webhook
from skyloom.sdk.transport import Transport


class WebhookCalls:
    """``cloud.webhooks``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, url: str, kinds: Sequence[NewsKind | str] = tuple(NewsKind)) -> IssuedWebhook:
        """Send news of the project to an address; the secret that they are signed with is in the answer and nowhere else."""
        return self._transport.send(model.CreateWebhook(url=url, kinds=tuple(NewsKind(kind) for kind in kinds)))

    def delete(self, webhook_id: str) -> Done:
        """Send nothing more to it. Raises `WebhookMissing`."""
        return self._transport.send(model.DeleteWebhook(webhook_id=webhook_id))

    def list(self, limit: int = 100) -> Page[Webhook]:
        """The project's webhooks and how they fare."""
        return self._transport.send(model.ListWebhooks(limit=limit))


def is_genuine(body: bytes, signature: str, secret: str, *, within_s: float = 300.0, now: float | None = None) -> bool:
    """For a receiver: True when ``Skyloom-Signature`` says that these bytes were sent by who knows the secret, lately."""
    fields = dict(part.partition("=")[::2] for part in signature.split(","))
    moment, mac = fields.get("t", ""), fields.get("v1", "")
    if not moment.isdigit() or abs((time.time() if now is None else now) - int(moment)) > within_s:
        return False
    expected = hmac.new(secret.encode(), moment.encode() + b"." + body, "sha256").hexdigest()
    return hmac.compare_digest(expected.encode(), mac.encode())
