"""Which texts of a queue travel together: those of like length, since a batch costs as much as if all were as long as its longest. Pure."""

from collections.abc import Sequence

_MOST_PADDING = 0.25  # of a batch's tokens: beyond it the padding costs more than travelling together saves


def like_lengths(lengths: Sequence[int], max_rows: int) -> list[int]:
    """Positions of the next batch, the shortest text first.

    The oldest always goes, so whoever has ``n`` before it waits for ``n`` batches at most; with it go those that are nearest to its length.

    Args:
        lengths: of all that wait, in tokens, the oldest first; at least one.
        max_rows: of a batch, from 1 up.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    low = high = order.index(0)
    tokens = lengths[0]
    while high - low + 1 < max_rows:
        shorter = lengths[order[low]] - lengths[order[low - 1]] if low else None
        longer = lengths[order[high + 1]] - lengths[order[high]] if high + 1 < len(order) else None
        if shorter is None and longer is None:
            break
        takes_longer = shorter is None or (longer is not None and longer < shorter)
        place = high + 1 if takes_longer else low - 1
        tokens += lengths[order[place]]
        padded = (high - low + 2) * lengths[order[max(high, place)]]
        if padded - tokens > _MOST_PADDING * padded:
            break
        low, high = min(low, place), max(high, place)
    return order[low : high + 1]
