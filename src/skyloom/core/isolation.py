"""Doing many things in one round, so that none of them holds up another."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from skyloom.core.errors import StorageFull, Unavailable


@contextmanager
def isolated(log: logging.Logger, what: str) -> Iterator[None]:
    """Keep to ``what`` alone whatever goes wrong with it: it is logged, and the round goes on with the others.

    `StorageFull` and `Unavailable` come out: they are nobody's own fault, and the whole round is done again.
    """
    try:
        yield
    except (StorageFull, Unavailable):
        raise
    except Exception:
        log.exception("%s is left as it is; the others go on, and the next round tries again", what)
