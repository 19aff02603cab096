"""Templates from Python: plan, apply, look."""

from pathlib import Path

from skyloom.core.operation import Page
from skyloom.rooms.templates import model
from skyloom.rooms.templates.model import PlanTemplate, Template, TemplatePlan
from skyloom.sdk.template_file import read_template
from skyloom.sdk.transport import Transport


class TemplateCalls:
    """``cloud.templates``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def read(self, path: str | Path) -> PlanTemplate:
        """Read a template file, and upload the files that it takes along. Raises `YamlUnreadable`, which tells line and column."""
        return read_template(Path(path), self._transport)

    def plan(self, wanted: PlanTemplate) -> TemplatePlan:
        """What applying it would do."""
        return self._transport.send(wanted)

    def apply(self, wanted: PlanTemplate, key: str | None = None) -> TemplatePlan:
        """Make what it describes, as a whole or not at all."""
        ask = model.ApplyTemplate(name=wanted.name, jobs=wanted.jobs, schedules=wanted.schedules)
        return self._transport.send(ask, key)

    def get(self, name: str) -> Template:
        """What was made of a template."""
        return self._transport.send(model.GetTemplate(name=name))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[Template]:
        """Templates that were applied, newest first."""
        return self._transport.send(model.ListTemplates(limit=limit, cursor=cursor))
