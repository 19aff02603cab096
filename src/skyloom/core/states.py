"""Move tables: states are enums, their legal moves are data, one function moves them."""

import enum
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from skyloom.core.errors import IllegalMove

S = TypeVar("S", bound=enum.StrEnum)


class Moves(Generic[S]):
    """The legal moves of one kind of thing. A state with no way out is terminal."""

    def __init__(self, noun: str, table: Mapping[S, Iterable[S]]) -> None:
        self.noun = noun
        self.table: dict[S, frozenset[S]] = {state: frozenset(out) for state, out in table.items()}
        missing = {target for out in self.table.values() for target in out} - set(self.table)
        if missing:
            raise TypeError(f"{noun}: {sorted(missing)} can be reached but have no row")

    def check(self, identifier: str, before: S, after: S) -> None:
        """Raise `IllegalMove` unless the table lists ``before -> after``."""
        if after not in self.table[before]:
            raise IllegalMove(
                f"{self.noun} {identifier} is {before}; it cannot become {after}.",
                next_action=f"From {before} it can become: {', '.join(sorted(self.table[before])) or 'nothing'}.",
            )

    def is_terminal(self, state: S) -> bool:
        """True when the table lists no way out of ``state``."""
        return not self.table[state]

    @property
    def live(self) -> tuple[S, ...]:
        """The states that still have somewhere to go."""
        return tuple(state for state in self.table if self.table[state])

    @property
    def edges(self) -> frozenset[tuple[S, S]]:
        """Every legal move, for tests that must see each one happen."""
        return frozenset((before, after) for before, out in self.table.items() for after in out)
