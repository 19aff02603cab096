"""Why each waiting gang waits, and its place in the line, in words."""

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

from skyloom.rooms.scheduling.model import Cause, Demand, Wait
from skyloom.rooms.scheduling.placement import Ground, Shape
from skyloom.rooms.scheduling.queue import Entry, Group
from skyloom.rooms.scheduling.round import OTHERS, Refusal, Round
from skyloom.rooms.scheduling.vectors import BOUNDLESS, ZERO, amounts, count_of, shortfall, times_in

_ANOTHER = "a job of another project"


def explain(turn: Round, limit: int) -> tuple[Wait, ...]:
    """The first ``limit`` that wait after a round, in the order in which they would start."""
    sentences: dict[tuple[Refusal, str], str] = {}
    groups = turn.queue.groups()
    never = {group for group in groups if _refusal(turn, group).why is Cause.IMPOSSIBLE}
    line = list(_in_line(turn, [group for group in groups if group not in never], limit))
    # Who can never start stands in nobody's way.
    line += _in_line(turn, [group for group in groups if group in never], limit - len(line))
    return tuple(_wait(turn, group, entry[2], place, sentences) for place, (group, entry) in enumerate(line, 1))


class GroupWait(NamedTuple):
    """Why a whole group waits. Gangs of ``owner`` learn who is ahead of them, all others that it is a job of another project."""

    owner: str
    mine: Wait
    others: Wait


def explain_groups(turn: Round) -> dict[tuple[object, ...], GroupWait]:
    """Why each group waits after a round, by its key: for gangs that stand too far back to be told one by one."""
    found = {}
    for group in turn.queue.groups():
        refusal = _refusal(turn, group)
        mine, others = (
            Wait(
                gang="",
                place=0,
                why=refusal.why,
                message=_sentence(turn, group, refusal, ahead),
                for_good=refusal.for_good,
            )
            for ahead in (refusal.ahead, refusal.ahead if refusal.ahead in ("", OTHERS) else _ANOTHER)
        )
        found[group.key] = GroupWait(_project_of(turn, refusal.ahead), mine, others)
    return found


def _in_line(turn: Round, groups: Iterable[Group], limit: int) -> Iterator[tuple[Group, Entry]]:
    """What waits, merged from groups; each that is passed counts as started for what ranks the next of its project."""
    lines = [(group, iter(group.in_line(limit))) for group in groups]
    heads = [
        (turn.rank(group, entry), number, entry)
        for number, (group, line) in enumerate(lines)
        if (entry := next(line, None)) is not None
    ]
    heapify(heads)
    for _ in range(limit):
        while heads:
            rank, number, entry = heappop(heads)
            group, line = lines[number]
            now_ranked = turn.rank(group, entry)
            if not heads or now_ranked <= rank:
                break
            heappush(heads, (now_ranked, number, entry))
        else:
            return
        yield group, entry
        turn.charge(entry[2], group.shape.need)
        following = next(line, None)
        if following is not None:
            heappush(heads, (turn.rank(group, following), number, following))


def _wait(turn: Round, group: Group, gang: Demand, place: int, sentences: dict[tuple[Refusal, str], str]) -> Wait:
    refusal = turn.told.get(gang.id) or _refusal(turn, group)
    if refusal.why is Cause.TURN and turn.floor.find(group.shape, group.shape.min_workers) is None:
        # It would have fitted, and others who may overtake have taken the room since.
        refusal.why, refusal.ahead = Cause.RESOURCES, ""
    ahead = _named(turn, refusal, gang)
    sentence = sentences.get((refusal, ahead))
    if sentence is None:
        sentence = sentences[refusal, ahead] = _sentence(turn, group, refusal, ahead)
    promised = refusal.promise
    mine = promised if promised is not None and promised.gang == gang.id else None
    turn_text = "next in the queue" if place == 1 else f"number {place} in the queue"
    if gang.id in turn.served:
        turn_text = f"others stop to make room for it; {turn_text}"
    message = sentence if refusal.why is Cause.IMPOSSIBLE else f"{sentence}; {turn_text}"
    return Wait(
        gang=gang.id,
        place=place,
        why=refusal.why,
        message=message,
        reserved_at=mine.at if mine is not None and mine.at < inf else None,
        for_good=refusal.for_good,
    )


def _refusal(turn: Round, group: Group) -> Refusal:
    return turn.refusals.get(group) or Refusal(Cause.TURN)


def _named(turn: Round, refusal: Refusal, gang: Demand) -> str:
    """Who comes first, for the owner of a gang: of another project's gangs nobody learns the ids."""
    ahead = refusal.ahead
    return ahead if ahead in ("", OTHERS) or _project_of(turn, ahead) == gang.project else _ANOTHER


def _project_of(turn: Round, gang_id: str) -> str:
    runs = turn.occupants.all.get(gang_id)
    return runs.gang.project if runs is not None else turn.queue.project(gang_id) or ""


def _sentence(turn: Round, group: Group, refusal: Refusal, ahead: str) -> str:
    shape = group.shape
    if refusal.why is Cause.IMPOSSIBLE:
        return f"cannot start: {_never(turn, group)}"
    if refusal.why is Cause.QUOTA:
        if refusal.left is None:
            return f"waits behind {ahead} of its project, which waits for its quota"
        missing = ", ".join(shortfall(shape.need, refusal.left))
        return f"its project holds all that it may: {missing} under its ceiling{_hopeless(refusal)}"
    if refusal.why is Cause.TURN and ahead == OTHERS:
        return "would fit, but others wait for the same pool, and nobody overtakes here"
    if refusal.why is Cause.TURN and ahead:
        return f"would fit, but would delay {ahead}, which comes first"
    return _missing(turn, shape) + _hopeless(refusal)


def _hopeless(refusal: Refusal) -> str:
    return ", and too few will come free: what holds them never ends by itself" if refusal.for_good else ""


def _missing(turn: Round, shape: Shape) -> str:
    """``needs 4 GPUs, 2 free on the node with most``."""
    pools = turn.floor.ground.pools(shape)
    if turn.floor.find(shape, shape.min_workers) is not None:
        return "would fit, but what is free is kept for others"
    if shape.min_workers == 1:
        level = max((most for areas in pools for most in turn.floor.levels(areas)), default=ZERO)
        missing = shortfall(shape.worker, level) or shortfall(shape.worker, ZERO)
        return f"{', '.join(missing)} on the node with most"
    fit = max(turn.floor.room(areas, shape.worker, BOUNDLESS) for areas in pools)
    where = " in the pool with most" if len(pools) > 1 else ""
    each = next(iter(amounts(shape.worker)), "any size")
    return f"needs {shape.min_workers} workers of {each} at once, room for {fit} now{where}"


def _never(turn: Round, group: Group) -> str:
    shape, ground = group.shape, turn.floor.ground
    missing = shortfall(shape.need, turn.standings.standing(group.project).ceiling, "allowed")
    if missing:
        return f"{', '.join(missing)} by its project's ceiling"
    pools = ground.pools(shape)
    if not pools:
        return _nowhere(shape, ground)
    most = max(sum(times_in(t, shape.worker) * n for area in areas for t, n in area.totals.items()) for areas in pools)
    if most:
        return f"needs {count_of(shape.min_workers, 'worker')} at once, the largest pool has room for {most}"
    whole = max(total for areas in pools for area in areas for total in area.totals)
    return ", ".join(shortfall(shape.worker, whole, "on the largest node"))


def _nowhere(shape: Shape, ground: Ground) -> str:
    """Why no node may be used at all."""
    allowed = [area for area in ground.areas if not shape.pools or area.pool in shape.pools]
    if not allowed:
        return "no node of a pool that it may use is there"
    if not any(area.has_labels(shape) for area in allowed):
        return "no node that it may use has the labels that it asks for"
    return "only rented nodes would do, and they are for those that have a deadline"
