"""How this process keeps its memory: what is let go of and taken again, and how often the interpreter looks for what nobody holds."""

import ctypes
import gc
import sys

# Of a hundred requests in flight there are some thousand objects, none of them in a cycle; of a connection that is closed there are a
# dozen or two that only a search finds. One that was open through some searches waits for the rounds of these.
_NEW_OBJECTS, _ROUNDS = 5_000, 5
_SWITCH_S = 0.0005  # a tenth of the usual: so long may a thread of ours (reports, pictures) keep the event loop from its requests
# glibc's mallopt. By itself it gives each tensor of a picture back to the system, which clears its pages anew for the next one.
_TRIM, _MMAP = -1, -3
_KEPT_BYTES, _LARGE_BYTES = 2**26, 2**25


def settle_memory() -> None:
    """Leave what was loaded so far out of every later search for garbage, and search less often: a search of a loaded server takes 20 ms
    or more, which a hundred requests wait for; of what came later, a millisecond. Keep up to 64 MiB that were let go of. Let threads
    take turns more often. Call it once, when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.collect()  # a whole search waits until a quarter as much is new as the last one left: nothing, not all that was loaded
    gc.set_threshold(_NEW_OBJECTS, _ROUNDS, _ROUNDS)
    sys.setswitchinterval(_SWITCH_S)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM, _KEPT_BYTES)
        mallopt(_MMAP, _LARGE_BYTES)
