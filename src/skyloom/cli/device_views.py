"""What of devices and roll-outs a person wants to see."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.wording import human, safe
from skyloom.rooms.devices.model import DeviceStatus, EnrolledDevice, GatheredSamples, SampledInputs
from skyloom.rooms.devices.rollout import Rollout, RolloutState, RolloutStatus

_WIDTH = 20


def bar_of(status: RolloutStatus) -> str:
    """How far a roll-out is, as a picture: ``█████░░░ 5 of 8``."""
    counted = status.progress
    full = _WIDTH * counted.healthy // counted.matching if counted.matching else 0
    bad = min(_WIDTH - full, -(-_WIDTH * counted.failed // counted.matching)) if counted.matching else 0
    word = "back" if status.rollout.state in (RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK) else "healthy"
    return f"{'█' * full}{'×' * bad}{'░' * (_WIDTH - full - bad)} {counted.healthy} of {counted.matching} {word}"


def _stages(status: RolloutStatus) -> str:
    stages = status.rollout.stages
    return " ".join(
        f"[{share}%]" if place == status.rollout.stage else f"{share}%" for place, share in enumerate(stages)
    )


def _some(words: Sequence[str], count: int) -> str:
    more = f"; and {count - len(words)} more" if count > len(words) else ""
    return "; ".join(words) + more


def _labels(rollout: Rollout) -> str:
    return ", ".join(f"{safe(name)}={safe(value)}" for name, value in sorted(rollout.labels.items())) or "all devices"


_VERSION = Column("model", lambda status: safe(f"{status.rollout.model}:{status.rollout.number}"))
_TO = Column("to", lambda status: _labels(status.rollout))
_STAGES = Column("stages", _stages)
_PROGRESS = Column("progress", bar_of)

DEVICE_COLUMNS: Mapping[type, Sequence[Column]] = {
    DeviceStatus: (
        of("device.name", "device"),
        of("state"),
        of("device.labels", "labels"),
        of("serving"),
        of("wanted"),
        of("report.seen_at", "last seen"),
        of("report.traffic.requests", "requests"),
        of("report.waiting_records", "waiting"),
        of("message"),
    ),
    RolloutStatus: (
        of("rollout.id", "roll-out"),
        of("rollout.state", "state"),
        _VERSION,
        _TO,
        _STAGES,
        _PROGRESS,
        of("rollout.message", "message"),
    ),
    SampledInputs: (
        of("run"),
        of("version"),
        of("received_at"),
        Column("samples", lambda some: str(len(some.samples))),
    ),
}
DEVICE_PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    GatheredSamples: (
        (
            of("draft.state", "dataset is"),
            of("draft.draft.job_id", "made by"),
            of("num_rows", "rows"),
            of("unreadable", "left out"),
            of("more", "more are left"),
        ),
        (),
    ),
    EnrolledDevice: (
        (
            of("device.name", "device"),
            of("device.labels", "labels"),
            of("code", "join code"),
            of("expires_at", "good until"),
            Column(
                "then, on it",
                lambda made: safe(f"skyloom edge join {made.code} --url ADDRESS") if made.code else human("", ""),
            ),
        ),
        (),
    ),
    DeviceStatus: (
        (
            of("device.name", "device"),
            of("device.id", "id"),
            of("state"),
            of("message"),
            of("next_action"),
            of("device.labels", "labels"),
            of("serving"),
            of("wanted"),
            of("report.outcome", "what it should serve is"),
            of("report.message", "it says"),
            of("device.rollout", "roll-out"),
            of("report.seen_at", "last seen"),
            of("report.interval_s", "calls every"),
            of("report.skew_s", "clock ahead"),
            of("report.software", "software"),
            of("report.traffic.requests", "requests"),
            of("report.traffic.rows", "rows"),
            of("report.traffic.client_errors", "client errors"),
            of("report.traffic.server_errors", "server errors"),
            of("report.predictions", "predictions here"),
            of("report.waiting_records", "records waiting there"),
            of("report.waiting_bytes", "outbox there"),
            of("report.kept_bytes", "kept here"),
            of("report.forgotten", "forgotten here"),
            of("report.dropped", "given up"),
            of("report.refused", "not understood"),
            of("report.note", "latest news"),
            of("report.noted_at", "news at"),
        ),
        (),
    ),
    RolloutStatus: (
        (
            of("rollout.id", "roll-out"),
            of("rollout.state", "state"),
            _VERSION,
            _TO,
            _STAGES,
            _PROGRESS,
            of("progress.assigned", "told"),
            of("progress.waiting", "at it"),
            Column("these are", lambda status: safe(_some(status.progress.waits_for, status.progress.waiting))),
            of("progress.failed", "failed"),
            Column("they say", lambda status: safe(_some(status.progress.troubles, status.progress.failed))),
            of("progress.away", "away"),
            of("next_at", "next stage at"),
            of("rollout.pause_s", "pause"),
            of("rollout.min_healthy", "healthy at least"),
            of("rollout.message", "message"),
            of("rollout.created_by", "by"),
            of("rollout.created_at", "since"),
        ),
        (),
    ),
}
