"""The replica's numbers in Prometheus text. Labels hold ids of ours only, never a client's words."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from skyloom.inference.dataplane import DataPlane
from skyloom.rooms.monitoring.model import BIN_GROWTH, FIRST_BIN_S

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
        traffic = self._plane.traffic.snapshot()
        for name, text, value in (
            ("skyloom_inference_requests", "Inference requests answered.", traffic.requests),
            ("skyloom_inference_rows", "Rows predicted.", traffic.rows),
            ("skyloom_inference_client_errors", "Inference requests answered with 4xx.", traffic.client_errors),
            ("skyloom_inference_server_errors", "Inference requests answered with 5xx.", traffic.server_errors),
        ):
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            counter.add_metric(self._labels, value)
            yield counter
        for name, text, value in (
            ("skyloom_inference_queued_rows", "Rows that wait for the model.", self._plane.queued_rows),
            ("skyloom_inference_ready", "1 while new requests are taken.", int(self._plane.ready)),
        ):
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge
        yield self._latency(traffic.latency.counts)

    def _latency(self, counts: dict[int, int]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            "skyloom_inference_duration_seconds", "From the whole request read to its answer.", labels=_LABELS
        )
        total, seconds = 0, 0.0
        buckets = []
        for place, count in sorted(counts.items()):
            total += count
            seconds += count * BIN_GROWTH ** (place + 0.5) * FIRST_BIN_S
            buckets.append((f"{BIN_GROWTH ** (place + 1) * FIRST_BIN_S:.6g}", total))
        buckets.append(("+Inf", total))
        family.add_metric(self._labels, buckets, sum_value=seconds)
        return family


def render(plane: DataPlane) -> bytes:
    """Write all metrics of a replica."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReplicaCollector(plane))
    return generate_latest(registry)
