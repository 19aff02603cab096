"""What arrays need stored."""

from skyloom.ports.store import Collection, Log
from skyloom.rooms.arrays.model import Array, ArrayEnd, ArrayProgress

ARRAYS = Collection("arrays", Array)
PROGRESS = Collection("array_progress", ArrayProgress, indexes=("active",), ordered=(("project", "active"),))
ENDS = Log("array_ends", ArrayEnd, keys=("array_id",))

COLLECTIONS = (ARRAYS, PROGRESS)
LOGS = (ENDS,)
