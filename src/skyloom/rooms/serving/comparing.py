"""Pure: the revisions that share an endpoint's traffic, side by side."""

from collections.abc import Mapping

import msgspec

from skyloom.rooms.monitoring.windows import latency_quantile
from skyloom.rooms.quality.model import QualityCount
from skyloom.rooms.serving.evidence import chance_of_error, interval, p_value
from skyloom.rooms.serving.model import Endpoint, Revision
from skyloom.rooms.serving.routes import RevisionTraffic
from skyloom.rooms.serving.split import Canary, Comparison, RevisionResult, SplitVerdict
from skyloom.rooms.serving.tallying import Counted, shadow_key

_PROVEN = 0.05


def results_of(
    endpoint: Endpoint,
    revisions: Mapping[int, Revision],
    counted: Counted,
    answering: Mapping[int, int],
    labels: Mapping[int, QualityCount],
) -> tuple[RevisionResult, ...]:
    """One line for each revision that is sent requests, and one for each shadow."""
    split = endpoint.in_force
    lines = []
    for number in sorted((split.used | set(split.shares)) & set(revisions)):
        revision = revisions[number]
        is_shadow = number in split.shadows and number not in split.weighted
        seen = counted.get(shadow_key(revision.id) if is_shadow else revision.id, RevisionTraffic())
        line = _line(revision, seen, split.weighted.get(number, 0.0), is_shadow, answering.get(number, 0))
        lines.append(line if is_shadow else _with_labels(line, labels.get(number, QualityCount())))
    return tuple(lines)


def compare(endpoint: Endpoint, canary: Canary | None, since: float, lines: tuple[RevisionResult, ...]) -> Comparison:
    """Say of each revision whether it errs more or less than the baseline."""
    weighted = sorted(endpoint.in_force.weighted)
    stable = canary.stable if canary is not None and canary.live else weighted[0]
    base = next((line for line in lines if line.number == stable), None)
    others = [line for line in lines if line.number != stable]
    return Comparison(
        endpoint=endpoint.id,
        endpoint_name=endpoint.name,
        since=since,
        baseline=stable,
        revisions=lines,
        verdicts=tuple(_verdict(base, line) for line in others) if base else (),
    )


def _line(revision: Revision, seen: RevisionTraffic, share: float, shadow: bool, replicas: int) -> RevisionResult:
    low, high = interval(seen.server_errors, max(0, seen.requests - seen.server_errors))
    return RevisionResult(
        revision=revision.id,
        number=revision.number,
        version_label=revision.version_label,
        share=share,
        shadow=shadow,
        replicas=replicas,
        requests=seen.requests,
        client_errors=seen.client_errors,
        server_errors=seen.server_errors,
        error_rate=seen.server_errors / seen.requests if seen.requests else 0.0,
        error_rate_low=low,
        error_rate_high=high,
        latency_p50_s=latency_quantile(seen.latency, 0.5),
        latency_p90_s=latency_quantile(seen.latency, 0.9),
        latency_p99_s=latency_quantile(seen.latency, 0.99),
    )


def _with_labels(line: RevisionResult, count: QualityCount) -> RevisionResult:
    if not count.judged:
        return line
    low, high = interval(count.wrong, count.right)
    return msgspec.structs.replace(
        line,
        labelled=count.judged,
        wrong=count.wrong,
        wrong_rate=count.wrong / count.judged,
        wrong_rate_low=low,
        wrong_rate_high=high,
    )


def _verdict(base: RevisionResult, line: RevisionResult) -> SplitVerdict:
    p_worse, p_better = _p_more(line, base), _p_more(base, line)
    names = f"revision {line.number} than revision {base.number}"
    if not base.requests or not line.requests:
        words = f"Too little traffic to compare revision {line.number} with revision {base.number}."
    elif p_worse < _PROVEN:
        words = f"More errors come from {names} (p = {p_worse:.2g})."
    elif p_better < _PROVEN:
        words = f"Fewer errors come from {names} (p = {p_better:.2g})."
    else:
        words = f"No difference in errors between revision {line.number} and revision {base.number} is proven."
    p_more_wrong, p_less_wrong = _p_more_wrong(line, base), _p_more_wrong(base, line)
    if p_more_wrong is not None and p_more_wrong < _PROVEN:
        words += f" More wrong answers come from {names} (p = {p_more_wrong:.2g})."
    elif p_less_wrong is not None and p_less_wrong < _PROVEN:
        words += f" Fewer wrong answers come from {names} (p = {p_less_wrong:.2g})."
    elif p_more_wrong is not None:
        words += " No difference in wrong answers is proven."
    return SplitVerdict(
        number=line.number,
        baseline=base.number,
        p_worse=p_worse,
        p_better=p_better,
        p_more_wrong=p_more_wrong,
        p_less_wrong=p_less_wrong,
        message=words,
    )


def _p_more_wrong(line: RevisionResult, other: RevisionResult) -> float | None:
    """Always-valid p-value of "its rows with a label are not more often wrong than the other's"."""
    if not line.labelled or not other.labelled:
        return None
    return p_value(line.wrong, other.wrong, chance_of_error(line.labelled / (line.labelled + other.labelled)))


def _p_more(line: RevisionResult, other: RevisionResult) -> float:
    """Always-valid p-value of "it does not err more often than the other"."""
    if not line.requests or not other.requests:
        return 1.0
    chance = chance_of_error(line.requests / (line.requests + other.requests))
    return p_value(line.server_errors, other.server_errors, chance)
