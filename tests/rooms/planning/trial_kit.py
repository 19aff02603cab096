"""Trials with known times, for tests of what is made of them."""

from collections.abc import Sequence

from skyloom.rooms.planning.model import StepTimes, TrialRun


def trial(
    workers: int = 1,
    step_s: Sequence[float] = (0.1,) * 18,
    *,
    steps: int = 1_000,
    startup_s: float = 2.0,
    finish_s: float = 3.0,
    checkpoint_s: float = 0.5,
    num_checkpoints: int = 4,
    first_step: int = 0,
    batch_size: int = 0,
    pool: str = "local",
) -> TrialRun:
    """A trial that began at 1,000 s; the program's own part lasted a second whatever its steps say."""
    began = 1_000 + startup_s
    times = StepTimes(
        total_steps=steps,
        first_step=first_step,
        last_step=first_step + len(step_s),
        began_at=began,
        ended_at=began + 1,
        step_s=tuple(step_s),
        checkpoint_s=checkpoint_s,
        num_checkpoints=num_checkpoints,
        batch_size=batch_size,
    )
    ended = began + 1 + finish_s
    return TrialRun(workers=workers, started_at=1_000.0, ended_at=ended, times=times, pool=pool)
