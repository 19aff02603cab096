"""What is said of a pool whose cluster cannot be reached."""

import pytest

from skyloom.engines.ray import NotReachedYet, pool_engines
from skyloom.rooms.pools.model import Pool


class Slow:
    """An engine whose connection is never made."""

    def check(self) -> None:
        raise NotReachedYet("It is not reached yet.", next_action="It is still tried; ask again.")


def test_pool_that_takes_too_long_to_be_reached_is_said_not_to_be_added() -> None:
    pool = Pool(id="far", project="*", address="ray://10.0.0.5:10001", added_at=0.0, added_by="owner")
    with pytest.raises(pool_engines.PoolNotReached, match="Pool far is not added") as refusal:
        pool_engines._reach(pool, Slow())  # type: ignore[arg-type]
    assert "still tried" not in str(refusal.value) and "add it again" in refusal.value.next_action
