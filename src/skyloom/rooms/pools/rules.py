"""Pure decisions of pools: whether one that does not answer may be given up."""

from skyloom.rooms.pools.model import PoolNotGone

# Longer than a restart of this control plane takes to connect, and than a node's tasks outlive their head.
GONE_AFTER_S = 60.0


def check_gone(pool: str, silent_s: float | None) -> None:
    """Refuse to give up a pool that answers (``silent_s`` is None), or that has not been asked in vain for long. Raises `PoolNotGone`."""
    if silent_s is None:
        raise PoolNotGone(
            f"Pool {pool} is not gone: it answers.",
            next_action=f"Cancel what runs there or wait for it, then: skyloom pool remove {pool}.",
        )
    if silent_s < GONE_AFTER_S:
        raise PoolNotGone(
            f"Pool {pool} has been silent for {silent_s:.0f} s only; that is no proof that it is gone for good.",
            next_action=f"It is asked again by itself; say it again in {GONE_AFTER_S - silent_s:.0f} s.",
        )
