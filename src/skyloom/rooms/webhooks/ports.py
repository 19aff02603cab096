"""What webhooks need stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.webhooks.model import Webhook

WEBHOOKS = Collection("webhooks", Webhook)

COLLECTIONS = (WEBHOOKS,)
