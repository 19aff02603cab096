"""The parts of a training's time, as functions of the workers N and the share f of the whole work.

The core is T = D/(N·r): twice the workers or twice the rate, half the time. Real trainings have more: what does not depend on the
data (start-up), what does not get faster by workers (serial part, Amdahl), and communication, which grows with N — by the depth of a
tree or with every worker — once a run or once a step (Ernest, NSDI 2016, has the same terms). Waiting for the slowest of N workers
costs a part of the parallel work that grows with log N.

Where the batch size B may change, a run has f/B steps: what is paid a step falls with B (Pollux, OSDI 2021).
"""

import enum
import math
from collections.abc import Callable, Mapping

import msgspec


class Term(enum.StrEnum):
    """One part of a time. All grow by the second; see `shape`."""

    WORK = "work"  # f/N: the work itself, D/(N·r)
    FIXED = "fixed"  # 1: start-up, once
    SERIAL = "serial"  # f: what only one worker can do
    TREE = "tree"  # f·log N: a collective over a tree, every step
    LINE = "line"  # f·(N-1): something for each further worker, every step
    STRAGGLERS = "stragglers"  # f·log N/N: waiting for the slowest
    START_TREE = "start_tree"  # log N, once
    START_LINE = "start_line"  # N-1, once
    STEP = "step"  # f/B: a step's own cost, whatever its rows
    STEP_TREE = "step_tree"  # f·log N/B
    STEP_LINE = "step_line"  # f·(N-1)/B


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a time is asked for: workers, the share of the whole work, and the rows of one step (0 where it never changes)."""

    workers: int
    data_fraction: float = 1.0
    batch_size: int = 0


SHAPES: Mapping[Term, Callable[[Load], float]] = {
    Term.WORK: lambda load: load.data_fraction / load.workers,
    Term.FIXED: lambda load: 1.0,
    Term.SERIAL: lambda load: load.data_fraction,
    Term.TREE: lambda load: load.data_fraction * math.log2(load.workers),
    Term.LINE: lambda load: load.data_fraction * (load.workers - 1),
    Term.STRAGGLERS: lambda load: load.data_fraction * math.log2(load.workers) / load.workers,
    Term.START_TREE: lambda load: math.log2(load.workers),
    Term.START_LINE: lambda load: load.workers - 1.0,
    Term.STEP: lambda load: load.data_fraction / load.batch_size,
    Term.STEP_TREE: lambda load: load.data_fraction * math.log2(load.workers) / load.batch_size,
    Term.STEP_LINE: lambda load: load.data_fraction * (load.workers - 1) / load.batch_size,
}

# How the terms are written for people: N workers, f the share of the work, B rows of a step.
SIGNS: Mapping[Term, str] = {
    Term.WORK: "f/N",
    Term.FIXED: "",
    Term.SERIAL: "f",
    Term.TREE: "f·log₂N",
    Term.LINE: "f·(N-1)",
    Term.STRAGGLERS: "f·log₂N/N",
    Term.START_TREE: "log₂N",
    Term.START_LINE: "(N-1)",
    Term.STEP: "f/B",
    Term.STEP_TREE: "f·log₂N/B",
    Term.STEP_LINE: "f·(N-1)/B",
}

_COMMUNICATION: tuple[tuple[Term, ...], ...] = (
    (),
    (Term.TREE,),
    (Term.LINE,),
    (Term.STRAGGLERS,),
    (Term.START_TREE,),
    (Term.START_LINE,),
    (Term.TREE, Term.LINE),
    (Term.START_TREE, Term.START_LINE),
    (Term.STRAGGLERS, Term.TREE),
    (Term.STRAGGLERS, Term.LINE),
)
_BY_BATCH: tuple[tuple[Term, ...], ...] = ((), (Term.STEP_TREE,), (Term.STEP_LINE,), (Term.STEP_TREE, Term.STEP_LINE))


def candidates(*, by_batch: bool) -> tuple[tuple[Term, ...], ...]:
    """The laws that are tried: each has the work, and few other terms, so that few measurements can tell."""
    rest = (Term.FIXED, Term.STEP if by_batch else Term.SERIAL)
    bases = ((), rest[:1], rest[1:], rest)
    communication = _BY_BATCH if by_batch else _COMMUNICATION
    return tuple((Term.WORK, *base, *more) for base in bases for more in communication)


def row(terms: tuple[Term, ...], load: Load) -> tuple[float, ...]:
    """What each term is at a load, before its weight."""
    return tuple(SHAPES[term](load) for term in terms)
