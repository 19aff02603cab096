"""How a program inside of a job fails: with one line for people, which also becomes the job's message."""

import contextlib
import sys

import msgspec

from skyloom.core.errors import Category, SkyloomError
from skyloom.ports.engine import ERROR_FILE, TaskError
from skyloom.runtime.context import context

# What another attempt cannot mend: the same request on the same data fails in the same way.
FINAL = frozenset({Category.INVALID, Category.LIMIT, Category.NOT_FOUND, Category.CONFLICT})
FINAL_EXIT, FAILED_EXIT = 2, 1


def fail(error: SkyloomError) -> int:
    """Print why, leave it for the job, and return the code to exit with. The job is tried again only if that can help."""
    is_final = error.category in FINAL
    print(f"skyloom: {error}", file=sys.stderr, flush=True)
    here = context()
    if here.is_in_job:
        with contextlib.suppress(OSError):  # a full disk takes the words, not the exit code
            content = msgspec.json.encode(TaskError(message=str(error), final=is_final))
            (here.task_folder / ERROR_FILE).write_bytes(content)
    return FINAL_EXIT if is_final else FAILED_EXIT
