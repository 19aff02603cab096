"""What tracking needs stored. Measurements are not here: they go to `ports.series`."""

from skyloom.ports.store import Collection
from skyloom.rooms.tracking.model import Run

RUNS = Collection("runs", Run, indexes=("job_id", "dataset"))

COLLECTIONS = (RUNS,)
