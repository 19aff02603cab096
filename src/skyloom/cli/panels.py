"""Help of commands with many options: in panels, most used first. Plain text, so that it comes at once."""

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

_WORDS_WIDTH = 30  # of the left column, the same in all panels


def panelled(panels: Mapping[str, str]) -> type[TyperCommand]:
    """The class of a command whose options stand below headings: heading → names of its parameters, between blanks.

    Arguments come first; what is in no panel comes last, below "Options".
    """

    class Panelled(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            params = {param.name: param for param in self.get_params(ctx)}
            arguments = [name for name, param in params.items() if param.param_type_name == "argument"]
            shown = {"Arguments": arguments, **{heading: names.split() for heading, names in panels.items()}}
            placed = {name for names in shown.values() for name in names}
            shown["Options"] = [name for name in params if name not in placed]
            for heading, names in shown.items():
                records = [params[name].get_help_record(ctx) for name in names]
                rows = [(f"{record[0]:<{_WORDS_WIDTH}}", record[1]) for record in records if record]
                if rows:
                    with formatter.section(heading):
                        formatter.write_dl(rows)

    return Panelled
