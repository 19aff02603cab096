"""Windows over what replicas report: merging, subtracting, quantiles. Pure; the numbers come in as cumulative `Traffic`.

A replica's numbers only grow until it restarts, so a window is one report minus an earlier one. Nothing here is ever negative:
when any number shrank, the replica began again from zero and the later report is all there is since.
"""

import bisect
from collections.abc import Iterable, Sequence
from operator import attrgetter

import msgspec

from skyloom.rooms.monitoring.model import BIN_GROWTH, FIRST_BIN_S, Histogram, Latency, Traffic
from skyloom.rooms.monitoring.packed import PackedReport, packed

_AT = attrgetter("at")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica had seen at a moment: seconds of one clock, that all times beside it are of too."""

    at: float
    traffic: Traffic


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What all replicas of an endpoint saw between two moments."""

    since: float
    until: float
    traffic: Traffic

    @property
    def duration_s(self) -> float:
        return max(0.0, self.until - self.since)


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """The recent reports of one replica, bounded, with restarts already added up.

    Attributes:
        latest: the numbers as the replica last gave them; fewer next time means that it restarted.
        earlier: what its lives before the latest restart saw.
        reports: oldest first; ``earlier`` is added in, so these only grow.
    """

    latest: Traffic = Traffic()
    earlier: Traffic = Traffic()
    reports: tuple[PackedReport, ...] = ()


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a ring keeps: one report every ``spacing_s`` or, of older ones, fewer; back to ``horizon_s``; at most ``limit``."""

    spacing_s: float = 2.0
    horizon_s: float = 900.0
    limit: int = 128


def merge_histograms(first: Histogram, second: Histogram) -> Histogram:
    """Add two histograms over the same edges. Associative and commutative. Raises ``ValueError`` when their bins differ."""
    added = tuple(a + b for a, b in zip(first.counts, second.counts, strict=True))
    return Histogram(counts=added, missing=first.missing + second.missing)


def merge_traffic(first: Traffic, second: Traffic) -> Traffic:
    """Add what two replicas saw. Associative and commutative; an empty `Traffic` changes nothing.

    Raises ``ValueError`` when both have histograms and they are not of the same profile.
    """
    return Traffic(
        requests=first.requests + second.requests,
        rows=first.rows + second.rows,
        client_errors=first.client_errors + second.client_errors,
        server_errors=first.server_errors + second.server_errors,
        latency=_added(first.latency, second.latency),
        histograms=_merged(first.histograms, second.histograms),
    )


def latency_quantile(latency: Latency, share: float) -> float | None:
    """Return the duration in seconds that ``share`` of the requests stayed below, or None when there were none.

    The upper end of the bin that the quantile falls in: at most a quarter too long, never too short.
    """
    total = sum(latency.counts.values())
    if not total:
        return None
    wanted, seen = share * total, 0
    for place in sorted(latency.counts):
        seen += latency.counts[place]
        if seen and seen >= wanted:
            return FIRST_BIN_S * BIN_GROWTH ** (place + 1)
    raise AssertionError("the counts sum to their total")


def observed(ring: Ring, report: Report, bounds: Bounds, *, started_at: float | None = None) -> Ring:
    """Return the ring with one more report; a report that is not newer than the last one changes nothing.

    ``started_at`` is when the replica began to count, if known: then its first report counts whole. Otherwise the first report
    is only where counting starts, because nobody knows over how long a time it was gathered.
    """
    if ring.reports and report.at <= ring.reports[-1].at:
        return ring
    if ring.latest.histograms and _shape(ring.latest) != _shape(report.traffic):
        ring = Ring()  # it watches other features now: nothing before can be compared
    reports = ring.reports
    if not reports and started_at is not None and started_at < report.at:
        reports = (packed(started_at, Traffic()),)
    restarted = bool(ring.reports) and _restarted(ring.latest, report.traffic)
    earlier = merge_traffic(ring.earlier, ring.latest) if restarted else ring.earlier
    total = packed(report.at, merge_traffic(earlier, report.traffic), reports[-1] if reports else None)
    return Ring(latest=report.traffic, earlier=earlier, reports=_bounded((*reports, total), bounds))


def recent(rings: Iterable[Ring], now: float, duration_s: float, *, with_histograms: bool = True) -> Window:
    """Return what some replicas saw in the last ``duration_s``; with histograms, they must be of one profile.

    A window starts at a report, so it may be a little longer than asked, or shorter when nothing older is known; ``since`` says
    where it really starts, and rates must divide by that.
    """
    start = now - duration_s
    spans = [(_base(ring, start), ring.reports[-1]) for ring in rings if ring.reports]
    live = [(base, last) for base, last in spans if base is not last]
    traffic = Traffic()
    for base, last in live:
        pair = (base.traffic, last.traffic) if with_histograms else (base.counted, last.counted)
        traffic = merge_traffic(traffic, _grown(*pair))
    return Window(since=min((base.at for base, _ in live), default=start), until=now, traffic=traffic)


def recent_rows(rings: Sequence[Ring], now: float, num_rows: int, horizon_s: float) -> Window:
    """Return the shortest window up to now with at least ``num_rows`` rows; the whole horizon when that holds fewer.

    The shortest, because a shift that began a minute ago must not be hidden by the quiet hour before it.
    """
    starts = sorted(
        {report.at for ring in rings for report in ring.reports if report.at >= now - horizon_s}, reverse=True
    )
    for start in starts:
        rows = sum(ring.reports[-1].rows - _base(ring, start).rows for ring in rings if ring.reports)
        if rows >= num_rows:
            return recent(rings, now, now - start)
    return recent(rings, now, horizon_s)


def _bounded(reports: tuple[PackedReport, ...], bounds: Bounds) -> tuple[PackedReport, ...]:
    # One report from before the horizon stays, so that a window of the whole horizon has a base.
    first = bisect.bisect_right(reports, reports[-1].at - bounds.horizon_s, key=_AT) - 1
    kept = [reports[max(0, first)]]
    for place in range(max(0, first) + 1, len(reports) - 1):
        age_s = reports[-1].at - reports[place].at
        # The older, the sparser: a window then starts within a twelfth of its length of where it was asked to.
        if reports[place + 1].at - kept[-1].at > max(bounds.spacing_s, age_s / 12):
            kept.append(reports[place])
    return (*kept[-bounds.limit + 1 :], *reports[max(0, first) + 1 :][-1:])


def _base(ring: Ring, start: float) -> PackedReport:
    """The last report at or before ``start``, or the oldest one."""
    place = bisect.bisect_right(ring.reports, start, key=_AT) - 1
    return ring.reports[max(0, place)]


def _restarted(before: Traffic, after: Traffic) -> bool:
    return (
        any(old > new for old, new in zip(_counters(before), _counters(after), strict=True))
        or any(after.latency.counts.get(place, 0) < count for place, count in before.latency.counts.items())
        or (bool(before.histograms) and _shape(before) != _shape(after))
        or any(map(_shrank, before.histograms, after.histograms))
    )


def _grown(before: Traffic, after: Traffic) -> Traffic:
    added = {place: count - before.latency.counts.get(place, 0) for place, count in after.latency.counts.items()}
    return Traffic(
        requests=after.requests - before.requests,
        rows=after.rows - before.rows,
        client_errors=after.client_errors - before.client_errors,
        server_errors=after.server_errors - before.server_errors,
        latency=Latency(counts={place: count for place, count in sorted(added.items()) if count}),
        histograms=tuple(map(_less, before.histograms, after.histograms)) if before.histograms else after.histograms,
    )


def _counters(traffic: Traffic) -> tuple[int, ...]:
    return (traffic.requests, traffic.rows, traffic.client_errors, traffic.server_errors)


def _shape(traffic: Traffic) -> list[int]:
    return [len(histogram.counts) for histogram in traffic.histograms]


def _shrank(before: Histogram, after: Histogram) -> bool:
    return after.missing < before.missing or any(map(int.__lt__, after.counts, before.counts))


def _less(before: Histogram, after: Histogram) -> Histogram:
    return Histogram(
        counts=tuple(map(int.__sub__, after.counts, before.counts)), missing=after.missing - before.missing
    )


def _merged(first: tuple[Histogram, ...], second: tuple[Histogram, ...]) -> tuple[Histogram, ...]:
    if not first or not second:
        return first or second
    return tuple(merge_histograms(a, b) for a, b in zip(first, second, strict=True))


def _added(first: Latency, second: Latency) -> Latency:
    places = first.counts.keys() | second.counts.keys()
    return Latency(counts={place: first.counts.get(place, 0) + second.counts.get(place, 0) for place in sorted(places)})
