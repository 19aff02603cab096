"""Small plots in text: a line for a curve or a histogram, a bar for a share. For where one would rather look than read."""

import itertools
import math
from collections.abc import Sequence

_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_GAP = "·"


def spark(values: Sequence[float | None], width: int = 40) -> str:
    """Draw a curve as one line, at most ``width`` wide; longer ones are averaged. None and NaN are shown as dots."""
    points = _resampled([math.nan if value is None else value for value in values], width)
    known = [point for point in points if math.isfinite(point)]
    if not known:
        return _GAP * len(points)
    # In halves: the whole of a span may be more than a float can say.
    low, span = min(known) / 2, max(known) / 2 - min(known) / 2
    return "".join(
        _level((point / 2 - low) / span if span else 0.0) if math.isfinite(point) else _GAP for point in points
    )


def bins(shares: Sequence[float], highest: float | None = None, width: int = 24) -> str:
    """Draw a histogram as one line from zero up. Give two of them the same ``highest`` to compare them."""
    points = _resampled(list(shares), width)
    top = highest or max(points, default=0.0) or 1.0
    return "".join(_level(point / top) for point in points)


def bar(share: float, width: int = 20) -> str:
    """Draw a share between 0 and 1 as a bar, to an eighth of a character."""
    eighths = round(min(1.0, max(0.0, share if math.isfinite(share) else 0.0)) * width * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def whisker(low: float, middle: float, high: float, top: float, width: int = 32) -> str:
    """Draw a value and its interval on a line from zero to ``top``: ``   ├─●──┤``. What is beyond ends in an arrow."""
    places = [round(min(1.0, max(0.0, value / top if top > 0 else 0.0)) * (width - 1)) for value in (low, middle, high)]
    start, dot, end = places
    line = [" "] * width
    line[start : end + 1] = "─" * (end + 1 - start)
    line[start], line[end] = "├", "→" if high > top else "┤"
    line[dot] = "●"
    return "".join(line).rstrip()


def _level(share: float) -> str:
    return _LEVELS[min(len(_LEVELS) - 1, max(0, int(share * len(_LEVELS))))]


def _resampled(values: Sequence[float], width: int) -> list[float]:
    """Averages of ``width`` equal parts; missing values are left out, a part without any value is missing."""
    if len(values) <= width:
        return list(values)
    borders = [place * len(values) // width for place in range(width + 1)]
    parts = [
        [value for value in values[start:end] if math.isfinite(value)] for start, end in itertools.pairwise(borders)
    ]
    return [sum(part) / len(part) if part else math.nan for part in parts]
