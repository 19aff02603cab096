"""The right of a node's tasks to go on: renewed as long as the cluster's head lists the node as alive, and dead by itself otherwise.

A node that is cut off ends its tasks when the lease is over; the control plane says NODE_LOST only after that, so that a task that
is started again elsewhere never runs twice (Gray and Cheriton 1989). The clock is the time since boot, which nobody sets.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from skyloom.engines.local.supervisor.files import write_moment

_RENEWALS = 5  # in the length of a lease


class Lease:
    """Renews the file that supervisors read. Nothing has to happen for it to end.

    Args:
        file: read by every supervisor twice a second.
        lease_s: how long it lasts from the moment that the head was asked.
        is_alive: asks the head; may block or raise, which renews nothing.
    """

    def __init__(self, file: Path, lease_s: float, is_alive: Callable[[], bool]) -> None:
        self.file = file
        self._lease_s = lease_s
        self._is_alive = is_alive
        self._closed = threading.Event()

    def renew(self) -> bool:
        """Ask once; True when the lease is renewed. It counts from before the question, whenever the answer comes."""
        asked = time.clock_gettime(time.CLOCK_BOOTTIME)
        if not self._is_alive():
            return False
        write_moment(str(self.file), asked + self._lease_s)
        return True

    def keep(self) -> None:
        """Renew from now on, in a thread."""
        threading.Thread(target=self._renew_always, daemon=True, name="lease").start()

    def close(self) -> None:
        """Renew no more."""
        self._closed.set()

    def _renew_always(self) -> None:
        while not self._closed.wait(self._lease_s / _RENEWALS):
            try:
                self.renew()
            except Exception as error:  # the head, or Ray in this process: tasks end if it stays so
                print(f"the lease is not renewed: {type(error).__name__}: {error}", flush=True)
