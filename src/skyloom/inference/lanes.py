"""How a heavy model shares its cores: all of them for a request that is alone, one for each batch where several wait.

Threads that share one batch wait for each other after every step of the graph; batches beside each other do not.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skyloom.core.errors import SkyloomError
from skyloom.inference import runtimes
from skyloom.inference.model import Model
from skyloom.inference.pace import Pace
from skyloom.inference.runtimes.seam import Grant

_HEAVY_S = 0.005  # for a row; what is quicker is held up by everything else
_MAX_BYTES = 2**27  # of a model: the lanes hold its weights a second time
_GAIN = 0.95
_ROUNDS = 3


def open_lanes(model: Model, folder: Path, pace: Pace, threads: int, gpus: int = 0) -> None:
    """Let a model run batches beside each other where that is quicker, as measured now, than one after the other on all cores."""
    runtime = runtimes.find(model.manifest.runtime)
    alone_s = pace.expect_s(1, 1)
    if threads < 2 or gpus or alone_s < _HEAVY_S or model.memory_bytes > _MAX_BYTES or not runtime.runs_at_once:
        return
    try:
        model.open_lanes(runtime.load(folder, model.manifest, Grant(1)), threads)
        gains = _beside_s(model, threads) <= alone_s * _GAIN
    except (SkyloomError, MemoryError) as error:  # the model itself is there, and answers without
        print(f"batches run one after the other, lanes cannot be opened: {type(error).__name__}", file=sys.stderr)
        gains = False
    if not gains:
        model.close_lanes()


def _beside_s(model: Model, lanes: int) -> float:
    """Seconds of one row when every lane runs one; the first round is left out."""
    inputs = model.usual(1)
    fastest = float("inf")
    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        for number in range(_ROUNDS + 1):
            began = time.perf_counter()
            for done in [pool.submit(model.run_beside, inputs) for _ in range(lanes)]:
                done.result()
            if number:
                fastest = min(fastest, (time.perf_counter() - began) / lanes)
    return fastest
