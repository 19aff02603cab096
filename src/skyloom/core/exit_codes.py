"""What a command of ours exits with after an error: one table for `skyloom` and the small program of devices."""

from collections.abc import Mapping

from skyloom.core.errors import Category

# 1 is left for "what you waited for failed", 2 is also what the argument parser uses, 130 is Ctrl-C.
EXIT_CODES: Mapping[Category, int] = {
    Category.INVALID: 2,
    Category.UNAUTHENTICATED: 3,
    Category.DENIED: 4,
    Category.NOT_FOUND: 5,
    Category.CONFLICT: 6,
    Category.LIMIT: 7,
    Category.STORAGE_FULL: 8,
    Category.UNAVAILABLE: 9,
    Category.INTERNAL: 70,
}
