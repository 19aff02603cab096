"""What sampling needs stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.sampling.model import SampleLog

SAMPLE_LOGS = Collection("sample_logs", SampleLog, indexes=("dataset",))

COLLECTIONS = (SAMPLE_LOGS,)
