"""What templates need stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.templates.model import Template

TEMPLATES = Collection("templates", Template, unique=("name",))

COLLECTIONS = (TEMPLATES,)
