"""Engines on the session's Ray cluster, for tests."""

import itertools
import os
import time
from pathlib import Path

from skyloom.core.errors import Unavailable
from skyloom.engines.ray import RayEngine
from tests.contracts.engine_contract import wait
from tests.ray_cluster import RayCluster

CONNECT_S = 100.0  # two Pythons import Ray one after the other, on a machine that may have ten times as much to do
_numbers = itertools.count(1)


def made(cluster: RayCluster, folder: Path, address: str = "", **more: object) -> RayEngine:
    """An engine with an id of its own, over the Ray client when no other address is given."""
    settings = {"engine_id": f"e{os.getpid()}-{next(_numbers)}", "warm": False, **more}
    return RayEngine(
        folder,
        address=address or cluster.address,
        token_file=cluster.token_file,
        node_folder=str(cluster.folder / "nodes"),
        **settings,  # type: ignore[arg-type]
    )


def connected(engine: RayEngine) -> RayEngine:
    """Wait for the first connection, which may take longer than one question may."""
    deadline = time.monotonic() + CONNECT_S
    while (why := _why_not(engine)) is not None:
        assert time.monotonic() < deadline, why
    return engine


def _why_not(engine: RayEngine) -> Unavailable | None:
    try:
        engine.check()
    except Unavailable as error:
        time.sleep(0.05)
        return error
    return None


def clear(engine: RayEngine) -> None:
    """End and forget all that a test left."""
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        wait(engine, task_id)
    engine.forget(engine.known())
