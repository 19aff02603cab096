"""The replica's numbers in Prometheus text. Labels hold ids of ours only, never a client's words."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from skyloom.inference.dataplane import DataPlane
from skyloom.inference.priorities import LANE_NAMES
from skyloom.rooms.monitoring.model import BIN_GROWTH, FIRST_BIN_S, Traffic

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_LABELS = ("endpoint", "revision", "replica", "model", "version")


class ReplicaCollector(Collector):
    """Reads a data plane when Prometheus asks."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        plan = plane.plan
        self._labels = (plan.endpoint, plan.revision, plan.replica, plan.model, plan.model_version)

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        own = self._plane.traffic.snapshot()
        counted = [(self._labels, own)]
        for guest in self._plane.guests or ():
            labels = (*self._labels[:3], guest.entry.model, guest.entry.label)
            counted.append((labels, guest.traffic.snapshot()))
        for name, text, field in (
            ("skyloom_inference_requests", "Inference requests answered.", "requests"),
            ("skyloom_inference_rows", "Rows predicted.", "rows"),
            ("skyloom_inference_client_errors", "Inference requests answered with 4xx.", "client_errors"),
            ("skyloom_inference_server_errors", "Inference requests answered with 5xx.", "server_errors"),
        ):
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for labels, traffic in counted:
                counter.add_metric(labels, getattr(traffic, field))
            yield counter
        for name, text, value in (
            ("skyloom_inference_queued_rows", "Rows that wait for the model.", self._plane.queued_rows),
            ("skyloom_inference_ready", "1 while new requests are taken.", int(self._plane.ready)),
        ):
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge
        yield from self._memory()
        yield from self._cached()
        yield from self._lanes()
        yield self._latency(counted)

    def _cached(self) -> Iterator[Metric]:
        """How often kept answers served; none without a cache."""
        cache = self._plane.cache
        if cache is None:
            return
        for name, text, value in (
            ("skyloom_inference_cache_hits", "Requests answered by what was said before.", cache.hits),
            ("skyloom_inference_cache_misses", "Requests that nothing was kept for.", cache.misses),
        ):
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            counter.add_metric(self._labels, value)
            yield counter
        gauge = GaugeMetricFamily("skyloom_inference_cache_bytes", "What kept answers take.", labels=_LABELS)
        gauge.add_metric(self._labels, cache.size_bytes)
        yield gauge

    def _lanes(self) -> Iterator[Metric]:
        """What went through each lane; none without lanes."""
        lanes = self._plane.lanes
        if not lanes:
            return
        labels = (*_LABELS, "lane")
        for name, text, field in (
            ("skyloom_inference_lane_requests", "Requests that went to the model.", "taken"),
            ("skyloom_inference_lane_refused", "Requests that there was no room or no time for.", "refused"),
            ("skyloom_inference_lane_late", "Requests whose time was over while they waited.", "late"),
        ):
            counter = CounterMetricFamily(name, text, labels=labels)
            for lane, lane_name in zip(lanes, LANE_NAMES, strict=True):
                counter.add_metric((*self._labels, lane_name), getattr(lane, field))
            yield counter
        gauge = GaugeMetricFamily("skyloom_inference_lane_queued_rows", "Rows that wait.", labels=labels)
        for lane, lane_name in zip(lanes, LANE_NAMES, strict=True):
            gauge.add_metric((*self._labels, lane_name), lane.rows)
        yield gauge

    def _memory(self) -> Iterator[Metric]:
        """What the models of the pack take, as measured; none without a pack."""
        if self._plane.guests is None:
            return
        held = GaugeMetricFamily(
            "skyloom_inference_guest_memory_bytes",
            "What loading the model took; 0 while it is not there.",
            labels=_LABELS,
        )
        loads = CounterMetricFamily("skyloom_inference_guest_loads", "How often the model was loaded.", labels=_LABELS)
        for guest in self._plane.guests:
            labels = (*self._labels[:3], guest.entry.model, guest.entry.label)
            held.add_metric(labels, guest.memory_bytes if guest.plane is not None else 0)
            loads.add_metric(labels, guest.loads)
        yield held
        yield loads

    def _latency(self, counted: Sequence[tuple[tuple[str, ...], Traffic]]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            "skyloom_inference_duration_seconds", "From the whole request read to its answer.", labels=_LABELS
        )
        for labels, traffic in counted:
            total, seconds = 0, 0.0
            buckets = []
            for place, count in sorted(traffic.latency.counts.items()):
                total += count
                seconds += count * BIN_GROWTH ** (place + 0.5) * FIRST_BIN_S
                buckets.append((f"{BIN_GROWTH ** (place + 1) * FIRST_BIN_S:.6g}", total))
            buckets.append(("+Inf", total))
            family.add_metric(labels, buckets, sum_value=seconds)
        return family


def render(plane: DataPlane) -> bytes:
    """Write all metrics of a replica."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReplicaCollector(plane))
    return generate_latest(registry)
