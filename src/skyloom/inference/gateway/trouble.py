"""How a request fails on its way to a replica."""

import enum


class Trouble(enum.Enum):
    """How a request failed that no answer came for."""

    UNREACHED = "unreached"  # nothing was sent
    LOST = "lost"  # the connection ended before the answer did
    SILENT = "silent"
    TOO_LARGE = "too large"
