"""Reports as rings keep them. Pure.

A ring holds some 75 reports of each replica that spoke in the last quarter of an hour, and each replica speaks every second: kept as
objects, their counts would be most of what a control plane holds in memory. Packed, a count takes one to five bytes, not 28 and more.
"""

import msgspec

from skyloom.rooms.monitoring.model import Histogram, Latency, Traffic

_ENCODER = msgspec.msgpack.Encoder()
_COUNTED = msgspec.msgpack.Decoder(tuple[int, int, int, int, dict[int, int]])
_HISTOGRAMS = msgspec.msgpack.Decoder(tuple[tuple[int, tuple[int, ...]], ...])


class PackedReport(msgspec.Struct, frozen=True, gc=False):
    """What one replica had seen at a moment.

    Attributes:
        at: seconds of one clock.
        rows: predicted, as in ``traffic``: what is looked at of many reports at once.
    """

    at: float
    rows: int
    _counts: bytes
    _histograms: bytes

    @property
    def counted(self) -> Traffic:
        """All but the histograms."""
        requests, rows, client_errors, server_errors, counts = _COUNTED.decode(self._counts)
        return Traffic(
            requests=requests,
            rows=rows,
            client_errors=client_errors,
            server_errors=server_errors,
            latency=Latency(counts=counts),
        )

    @property
    def traffic(self) -> Traffic:
        """All of it."""
        found = _HISTOGRAMS.decode(self._histograms)
        histograms = tuple(Histogram(counts=counts, missing=missing) for missing, counts in found)
        return msgspec.structs.replace(self.counted, histograms=histograms)


def packed(at: float, traffic: Traffic, before: PackedReport | None = None) -> PackedReport:
    """Pack what was seen until ``at``; what is as it was ``before`` is kept once."""
    counts = _ENCODER.encode(
        (traffic.requests, traffic.rows, traffic.client_errors, traffic.server_errors, traffic.latency.counts)
    )
    histograms = _ENCODER.encode([(histogram.missing, histogram.counts) for histogram in traffic.histograms])
    if before is not None:
        counts = before._counts if before._counts == counts else counts
        histograms = before._histograms if before._histograms == histograms else histograms
    return PackedReport(at, traffic.rows, counts, histograms)
