"""Tallies: the sums of the ledger, kept in the transaction that writes it, so that no report and no check of a budget reads it whole."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from skyloom.ports.store import Snapshot, Transaction, changed
from skyloom.rooms.cost.model import CostBy, LedgerEntry, Tally
from skyloom.rooms.cost.ports import LEDGER, TALLIES
from skyloom.rooms.cost.rules import DAY_S, by_day, day_of, name_of, start_of, usage_of
from skyloom.rooms.cost.usage import Usage

_CHUNK_ENTRIES = 1_000
_WHOLE = frozenset({CostBy.PROJECT, CostBy.USER})  # what a budget may ask for all days of
_EVER = ""


def record(tx: Transaction, entry: LedgerEntry) -> None:
    """Append an entry to the ledger and add it to all sums that it belongs to."""
    _sum_up(tx, entry, tx.append(LEDGER, entry))


def _sum_up(tx: Transaction, entry: LedgerEntry, number: int) -> None:
    """Add an entry to all sums that it belongs to: read in one query, each written once."""
    days = list(by_day(entry))
    whole = days[0][1] if len(days) == 1 else usage_of(entry)
    parts: dict[str, tuple[CostBy, str, str, Usage]] = {}
    for by in CostBy:
        name = name_of(by, entry)
        if not name:
            continue  # what belongs to nothing is the project's sum without that of all the others
        for day, usage in (*days, (_EVER, whole)) if by in _WHOLE else days:
            parts[_id(entry.project, by, name, day)] = (by, name, day, usage)
    known = {tally.id: tally for ids in _parts(list(parts)) for tally in tx.select(TALLIES, {"id": ids})}
    for key, (by, name, day, usage) in parts.items():
        if key in known:
            more = {"usage": known[key].usage + usage, "last_entry": number}
            tx.update(TALLIES, changed(known[key], more))
        else:
            tx.insert(TALLIES, _first(key, entry.project, by, name, day, usage, number))


def ever(view: Snapshot, project: str, by: CostBy, name: str) -> Usage:
    """All that a project or user ever used; of other kinds of things, the sum of their days."""
    if by in _WHOLE:
        found = view.get(TALLIES, _id(project, by, name, _EVER))
        return found.usage if found else Usage()
    return sum((tally.usage for tally in view.select(TALLIES, {"subject": f"{project}/{by.value}/{name}"})), Usage())


def per_day(view: Snapshot, project: str, by: CostBy, name: str, days: Iterable[str]) -> dict[str, Usage]:
    """What one thing used on each of some days, those without any left out."""
    ids = [_id(project, by, name, day) for day in days]
    return {tally.day: tally.usage for part in _parts(ids) for tally in view.select(TALLIES, {"id": part})}


def in_days(view: Snapshot, project: str, by: CostBy, name: str, days: Iterable[str]) -> Usage:
    """What one thing used on some whole days."""
    return sum(per_day(view, project, by, name, days).values(), Usage())


def used_since(view: Snapshot, project: str, by: CostBy, since: float) -> dict[str, Usage]:
    """What everything of a kind used since a moment, by name; under the empty name what belongs to nothing of that kind.

    Days are read as sums; of the ledger only what was written for the day that ``since`` cuts.
    """
    known = sorted(
        tally.day for tally in view.select(TALLIES, {"subject": f"{project}/project/{project}"}) if tally.day
    )
    first = day_of(since)
    whole = [day for day in known if (day >= first if since == start_of(first) else day > first)]
    found: dict[str, Usage] = defaultdict(Usage)
    for part in _parts([f"{project}/{by.value}/{day}" for day in whole]):
        for tally in view.select(TALLIES, {"shelf": part}):
            found[tally.name] += tally.usage
    everything = in_days(view, project, CostBy.PROJECT, project, whole)
    if first in known and first not in whole:
        until = start_of(first) + DAY_S
        for entry in _entries_of(view, project, first):
            usage = usage_of(entry, since, until)
            found[name_of(by, entry)] += usage
            everything += usage
    named = sum((usage for name, usage in found.items() if name), Usage())
    return {name: usage for name, usage in found.items() if name} | {"": everything - named}


def rebuild(tx: Transaction) -> int:
    """Make all sums anew from the ledger, for a database that was written before there were sums. Returns how many entries it holds."""
    for tally in tx.select(TALLIES):
        tx.delete(TALLIES, tally.id)
    count = 0
    for number, entry in _all(tx):
        _sum_up(tx, entry, number)
        count += 1
    return count


def _entries_of(view: Snapshot, project: str, day: str) -> Iterator[LedgerEntry]:
    """The entries that a day's sums were made of, and some others."""
    tally = view.get(TALLIES, _id(project, CostBy.PROJECT, project, day))
    after = tally.first_entry - 1 if tally else 0
    while tally and after < tally.last_entry:
        chunk = view.entries(LEDGER, {"project": project}, after=after, limit=_CHUNK_ENTRIES)
        yield from (entry for number, entry in chunk if number <= tally.last_entry)
        after = chunk[-1][0] if chunk else tally.last_entry


def _all(view: Snapshot) -> Iterator[tuple[int, LedgerEntry]]:
    after = 0
    while chunk := view.entries(LEDGER, after=after, limit=_CHUNK_ENTRIES):
        yield from chunk
        after = chunk[-1][0]


def _first(key: str, project: str, by: CostBy, name: str, day: str, usage: Usage, number: int) -> Tally:
    return Tally(
        id=key,
        project=project,
        by=by,
        name=name,
        day=day,
        shelf=f"{project}/{by.value}/{day}",
        subject=f"{project}/{by.value}/{name}",
        usage=usage,
        first_entry=number,
        last_entry=number,
    )


def _id(project: str, by: CostBy, name: str, day: str) -> str:
    return f"{project}/{by.value}/{name}/{day}"


def _parts(names: list[str], size: int = 500) -> Iterator[tuple[str, ...]]:
    return (tuple(names[start : start + size]) for start in range(0, len(names), size))
