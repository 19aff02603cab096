"""The one renderer: every answer of every operation as text for people or JSON for programs, and every error.

Piped output never depends on the terminal: no colours, no wrapping, one line per row. Text that came from users cannot command the
terminal in either form. rich is imported when the first table is drawn, not before.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from skyloom.cli import data_views, forecasts, money_views, views
from skyloom.cli.columns import Column
from skyloom.cli.wording import NOTHING, human, is_risky, safe
from skyloom.core.errors import SkyloomError
from skyloom.core.exit_codes import EXIT_CODES
from skyloom.core.money import Money
from skyloom.core.operation import Done, Page
from skyloom.core.resources import Resources
from skyloom.rooms.cost.model import CostOutlook, CostReport
from skyloom.rooms.data.model import Excerpt
from skyloom.rooms.lineage.model import LineageNode
from skyloom.rooms.planning.model import Accuracy, Breakdown, Forecast, TimePlan

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.tree import Tree

_PIPED_WIDTH = 100_000  # wide enough that nothing is ever wrapped or cut
_LEAST = 24  # characters that a long text gets at least; it is broken over lines
_STAYS = ("state", "message", "error")  # however narrow the terminal is
_EMPTY = "Nothing here yet."
_GOOD = {"succeeded", "ready", "running", "resolved", "healthy", "active", "done"}
_BAD = {"failed", "firing", "lost", "unhealthy", "error"}


def render(value: object, as_json: bool = False) -> str:
    """Return an answer as text, the way a pipe gets it: the same bytes on every machine."""
    if as_json:
        return to_json(value)
    buffer = StringIO()
    _draw(value, _piped_console(buffer))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def show(value: object, as_json: bool = False, file: TextIO | None = None) -> None:
    """Print an answer: drawn to the terminal's width and in colour if ``file`` is one, else as `render` has it."""
    target = file or sys.stdout
    if as_json or not target.isatty():
        _write(target, render(value, as_json) + "\n")
        return
    from rich.console import Console  # only now: importing it takes longer than most commands

    _draw(value, Console(file=target, highlight=False, markup=False, emoji=False))


def say_written(what: str, path: Path) -> None:
    """Say on stderr where a file was written."""
    _write(sys.stderr, f"{what} written to {safe(str(path))}\n")


def say_how(command: str) -> None:
    """Say on stderr, below an answer, how to go on; nothing where there is nothing to say."""
    if command:
        _write(sys.stderr, f"\nask it: {command}\n")


def render_error(error: SkyloomError, as_json: bool = False) -> str:
    """Return an error as two lines, or as its JSON body."""
    if as_json:
        return to_json({"error": error.body()})
    following = f"\nnext: {safe(error.next_action)}" if error.next_action else ""
    return f"error {error.code}: {safe(error.message)}{following}"


def show_error(error: SkyloomError, as_json: bool = False, file: TextIO | None = None) -> int:
    """Print an error to stderr and return the exit code of its category."""
    _write(file or sys.stderr, render_error(error, as_json) + "\n")
    return EXIT_CODES[error.category]


def to_json(value: object) -> str:
    """Return JSON, indented; what could command a terminal is escaped, which changes nothing for a JSON parser."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if text.isascii() and "\x7f" not in text:
        return text
    return re.sub(r"[^\x20-\x7e\n]", _json_escaped, text)


@contextmanager
def progress(title: str, total: int | None = None, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show how far a long work is, on stderr: a bar on a terminal, else a line for every tenth, or one at its
    start where nobody knows how long it is. Yields ``advance(count)``."""
    if quiet:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _tenths(title, total)


def _draw(value: object, console: "Console") -> None:
    for part in _parts(value):
        console.print(part, no_wrap=not console.is_terminal, soft_wrap=False)


def _parts(value: object) -> "Iterable[RenderableType]":
    """What to draw for an answer, one below the other."""
    from rich.text import Text

    if isinstance(value, Done):
        yield Text("done")
    elif isinstance(value, CostReport):
        yield _table(*money_views.rows_of_cost(value))
    elif isinstance(value, CostOutlook):
        yield _table(*money_views.rows_of_days(value))
        yield Text(money_views.going(value), style="dim")
    elif isinstance(value, Forecast | TimePlan):
        yield _table(*forecasts.rows_of_forecast(value))
        yield _pairs(forecasts.words_of_forecast(value))
        if isinstance(value, TimePlan) and value.parts:
            yield Text("\ntried", style="bold")
            yield _table(views.columns(Breakdown), value.parts)
    elif isinstance(value, Accuracy):
        yield from _list([*value.rows, *([value.total] if value.total else [])])
    elif isinstance(value, Excerpt):
        yield _table(data_views.cells(value), value.rows)
        yield Text(f"{len(value.rows)} of {value.num_rows:,} rows", style="dim")
    elif isinstance(value, LineageNode):
        yield _tree(value)
    elif isinstance(value, Page):
        yield from _list(value.items)
        if value.next_cursor:
            yield Text(f"more: --cursor {safe(value.next_cursor)}", style="dim")
    elif isinstance(value, msgspec.Struct) and not isinstance(value, Money | Resources):
        yield from _page(value)
    elif isinstance(value, Mapping) and any(isinstance(item, msgspec.Struct) for item in value.values()):
        yield from _list(list(value.values()))
    elif isinstance(value, Mapping):
        yield _pairs([(safe(str(key)), human(str(key), item)) for key, item in value.items()])
    elif isinstance(value, list | tuple):
        yield from _list(value)
    else:
        yield Text(human("", value))


def _list(items: Sequence[Any]) -> "Iterable[RenderableType]":
    from rich.text import Text

    if not items:
        yield Text(_EMPTY, style="dim")
    elif isinstance(items[0], msgspec.Struct):
        yield _table(views.columns(type(items[0])), items)
    else:
        yield from (Text(human("", item)) for item in items)


def _page(value: msgspec.Struct) -> "Iterable[RenderableType]":
    """One noun: what it is in pairs, then each part of it under its own heading. Empty ones are left out."""
    from rich.text import Text

    page = views.page(value)
    yield _pairs([(label, text) for label, text in page.pairs if text not in ("", NOTHING)])
    for heading, part in page.parts:
        yield Text(f"\n{heading}", style="bold")
        yield from _parts(part)


def _table(columns: Sequence[Column], items: Iterable[object]) -> "_Fitted":
    written = [[column.write(item) for column in columns] for item in items]
    # A column in which no row has anything only makes the others narrower.
    used = [place for place in range(len(columns)) if any(row[place] not in ("", NOTHING) for row in written)]
    return _Fitted([columns[place] for place in used], [[row[place] for place in used] for row in written])


class _Fitted:
    """A table as wide as there is room: what can be typed again (ids, states, names) is never broken over lines. Where not all
    columns fit, those to the right are left out, and it says which."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        from rich.cells import cell_len

        self._columns, self._rows = columns, rows
        texts = [[column.heading, *(row[place] for row in rows)] for place, column in enumerate(columns)]
        self._wide = [max(map(cell_len, column)) for column in texts]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        shown = self._fitting(options.max_width)
        yield _drawn(self._columns, self._rows, shown, {place for place in shown if self._is_firm(place)})
        absent = [column.heading for place, column in enumerate(self._columns) if place not in shown]
        if absent:
            yield Text(f"left out to fit: {', '.join(absent)} (--json has them)", style="dim")

    def _is_firm(self, place: int) -> bool:
        if self._wide[place] <= _LEAST or self._columns[place].path.split(".")[-1] in ("id", "state"):
            return True
        return place == 0 and not any(" " in row[0] for row in self._rows)

    def _fitting(self, width: int) -> list[int]:
        """The places of the columns to show: the last ones go first, then those that stay, but for the first and the state."""
        shown = list(range(len(self._columns)))
        names = [column.path.split(".")[-1] for column in self._columns]
        goes = [place for place in shown[:0:-1] if not names[place].endswith(_STAYS) and self._columns[place].heading]
        goes += [place for place in shown[:0:-1] if place not in goes and names[place] != "state"]
        for place in goes:
            if sum(2 + (self._wide[one] if self._is_firm(one) else _LEAST) for one in shown) - 2 <= width:
                break
            shown.remove(place)
        return shown


def _drawn(columns: Sequence[Column], rows: Sequence[Sequence[str]], used: Sequence[int], firm: set[int]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place in used:
        numbers = all(re.fullmatch(r"<?[-$\d.,]+[%]?|–", row[place]) for row in rows)
        table.add_column(
            Text(columns[place].heading.upper()),
            justify="right" if numbers else "left",
            overflow="ellipsis" if place in firm else "fold",
            no_wrap=place in firm,
        )
    for row in rows:
        table.add_row(*(Text(row[place], style=_style(row[place])) for place in used))
    return table


def _tree(node: LineageNode) -> "Tree":
    """A lineage as a tree: what each thing is called, then its id, its time and its facts, dimmed."""
    from rich.text import Text
    from rich.tree import Tree

    def label_of(one: LineageNode) -> Text:
        text = Text(safe(one.name), style="bold")
        told = [safe(one.id), *([human("at", one.at)] if one.at is not None else [])]
        told += [f"{safe(name)}: {safe(fact)}" for name, fact in one.facts.items()]
        return text.append(f"  {' · '.join(told)}", style="not bold dim")

    def grow(branch: Tree, one: LineageNode) -> Tree:
        for following in one.next:
            grow(branch.add(label_of(following)), following)
        return branch

    return grow(Tree(label_of(node)), node)


def _pairs(rows: Sequence[tuple[str, str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text, style=_style(text)))
    return table


def _style(text: str) -> str:
    return "green" if text in _GOOD else "red" if text in _BAD else ""


def _piped_console(buffer: StringIO) -> "Console":
    from rich.console import Console

    # An empty environment: variables like COLUMNS or FORCE_COLOR must not change what a pipe gets.
    return Console(
        file=buffer,
        width=_PIPED_WIDTH,
        color_system=None,
        force_terminal=False,
        highlight=False,
        markup=False,
        _environ={},
    )


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task(safe(title).replace("[", r"\["), total=total)
        yield lambda count: drawn.advance(task, count)


def _tenths(title: str, total: int | None) -> Callable[[int], None]:
    reached = 0
    if total is None:
        _write(sys.stderr, f"{safe(title)} …\n")

    def advance(count: int) -> None:
        nonlocal reached
        before, reached = reached, reached + count
        if total and before * 10 // total != reached * 10 // total:
            _write(sys.stderr, f"{safe(title)}: {min(100, reached * 100 // total)}%\n")

    return advance


def _json_escaped(match: re.Match[str]) -> str:
    character = match.group()
    if not is_risky(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def _write(file: TextIO, text: str) -> None:
    """Write and flush; a terminal that cannot show a character gets its escape instead of a stack trace."""
    encoding = file.encoding or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    file.flush()
