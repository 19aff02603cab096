"""How often the interpreter looks for garbage that it cannot see by counting."""

import gc

_NEW_OBJECTS = 50_000  # of a hundred requests in flight there are some thousand, and none of them is in a cycle
_ROUNDS = 20


def settle_memory() -> None:
    """Leave what was loaded so far out of every later search, and search less often: a search of a loaded server takes 20 ms or more,
    which a hundred requests wait for. Call it once, when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _ROUNDS, _ROUNDS)
