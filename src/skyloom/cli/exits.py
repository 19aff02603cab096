"""Exit codes: the one place where an error's category, or a job's end, becomes a number.

``job run`` and ``job logs -f`` answer with the job's own exit code; a job that has none gets one of `JOB_CODES`.
"""

from skyloom.core.errors import Category

OK = 0
USAGE = 2
INTERRUPTED = 130

CODES: dict[Category, int] = {
    Category.INTERNAL: 1,
    Category.INVALID: 2,
    Category.UNAUTHENTICATED: 3,
    Category.DENIED: 4,
    Category.NOT_FOUND: 5,
    Category.CONFLICT: 6,
    Category.LIMIT: 7,
    Category.STORAGE_FULL: 8,
    Category.UNAVAILABLE: 9,
}

# By the value of `skyloom.rooms.jobs.model.Reason`; the numbers are the ones that timeout(1), env(1) and shells use.
JOB_CODES: dict[str, int] = {
    "time_limit": 124,
    "shim_lost": 125,
    "node_lost": 125,
    "launch_failed": 126,
    "cancelled": 130,
    "out_of_memory": 137,
    "stopped": 143,
}
JOB_FAILED = 1
SIGNAL_BASE = 128
