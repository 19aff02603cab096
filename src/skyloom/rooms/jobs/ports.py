"""What jobs need stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.jobs.model import Job, Task

JOBS = Collection("jobs", Job, indexes=("array",))
TASKS = Collection("tasks", Task, indexes=("job_id", "state", "turn"), ordered=(("project", "state"),))

COLLECTIONS = (JOBS, TASKS)
