"""The training loop: synchronous data-parallel gradient descent. One loop for every recipe and every user script.

Each step, every worker computes the gradient of its share of the global batch; the shares are added up over the gang and divided
by the rows of the whole batch, so the gradient is that of one process working on the whole batch, whatever the number of
workers and however uneven the shares. The loop knows no data format and no model: it asks for the loss of some rows.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta

from skyloom.core.errors import InvalidInput, StorageFull
from skyloom.runtime.checkpoint import Checkpoints
from skyloom.runtime.gang import Gang
from skyloom.runtime.report import deliver, report
from skyloom.runtime.shards import Batch, Rows, Shards
from skyloom.runtime.state import Position, read_position, restore, to_files
from skyloom.runtime.trial import trial

LossOfRows = Callable[[Rows], torch.Tensor]
"""Returns the SUM of the losses of these rows, as a scalar tensor on the gang's device."""

_LINES = 10  # of output in one training

Report = Callable[[Mapping[str, float], int], None]


class LossNotFinite(InvalidInput):
    """The loss became NaN or infinite; going on would only spoil the weights."""


class FitPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to train.

    Attributes:
        batch_size: rows of one step, all workers together.
        learning_rate: the highest; it rises over the first tenth of the steps and falls to zero along a cosine.
        seed: of the order of rows; with the seed of the weights, it makes training on CPUs repeatable to the bit.
        checkpoint_every_steps: also written at the end; 0 writes only that one.
        report_every_steps: how often the loss is reported, and how often a request to stop is looked at.
    """

    epochs: Annotated[int, Meta(ge=1, le=100_000)] = 5
    batch_size: Annotated[int, Meta(ge=1, le=2**20)] = 64
    learning_rate: Annotated[float, Meta(gt=0, le=100)] = 1e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 1e-4
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    checkpoint_every_steps: Annotated[int, Meta(ge=0)] = 100
    report_every_steps: Annotated[int, Meta(ge=1)] = 10


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """How a training went. ``resumed_from_step`` is None unless a checkpoint was taken up. Rates are of this attempt."""

    steps: int
    loss: float
    duration_s: float
    rows_per_s: float
    resumed_from_step: int | None = None


def average_gradients(
    loss_sum: torch.Tensor | None,
    parameters: Sequence[torch.Tensor],
    num_rows: int,
    gang: Gang,
    norms: Callable[[float, float], None] | None = None,
) -> float:
    """Leave in each parameter's ``grad`` the gradient of the mean loss over the global batch; returns that mean loss.

    Args:
        loss_sum: summed loss of this worker's rows; None when it has none in this batch.
        num_rows: rows of the global batch.
        norms: told the squared norms of this worker's part of the gradient and of all of it.
    """
    if loss_sum is not None:
        (loss_sum / num_rows).backward()
    mean = torch.zeros(1, device=gang.device) if loss_sum is None else loss_sum.detach().reshape(1).float() / num_rows
    if gang.world_size == 1:
        return float(mean)
    flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in parameters] + [mean.to(parameters[0].dtype)])
    part = float(flat[:-1].square().sum()) if norms else 0.0
    gang.add_up(flat)
    if norms:
        norms(part, float(flat[:-1].square().sum()))
    pieces = flat.split([parameter.numel() for parameter in parameters] + [1])
    for parameter, piece in zip(parameters, pieces, strict=False):
        parameter.grad = piece.view_as(parameter).clone()
    return float(pieces[-1])


def fit(
    model: torch.nn.Module,
    loss_of_rows: LossOfRows,
    num_rows: int,
    plan: FitPlan,
    gang: Gang,
    checkpoints: Checkpoints | None = None,
    report: Report = report,
) -> Fitted:
    """Train a model in place; resumes from the newest good checkpoint.

    All ranks call it with the same arguments. Raises `LossNotFinite`, `TooFewRows`, `CheckpointMismatch`; and
    ``SystemExit(143)`` after writing a checkpoint when the process was asked to stop.
    """
    return _Training(model, loss_of_rows, num_rows, plan, gang, checkpoints, report).run()


class _Training:
    def __init__(
        self,
        model: torch.nn.Module,
        loss_of_rows: LossOfRows,
        num_rows: int,
        plan: FitPlan,
        gang: Gang,
        checkpoints: Checkpoints | None,
        report: Report,
    ) -> None:
        self._model, self._loss_of_rows, self._plan, self._gang = model, loss_of_rows, plan, gang
        self._checkpoints, self._report = checkpoints, report
        self._shards = Shards(num_rows, plan.batch_size, plan.seed, gang.rank, gang.world_size)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, foreach=False
        )
        self._total_steps = plan.epochs * self._shards.steps_per_epoch
        self._step, self._loss = 0, math.nan
        self._trial = trial()
        self._stop_at = self._total_steps

    def run(self) -> Fitted:
        resumed = self._start()
        first_step, started = self._step, time.monotonic()
        workers = f"{self._gang.world_size} worker{'s' if self._gang.world_size > 1 else ''}"
        self._say(f"Training on {self._shards.num_rows} rows: {self._total_steps} steps, {workers}.")
        self._model.train()
        self._begin_trial(first_step)
        while self._step < self._stop_at:
            epoch, first = divmod(self._step, self._shards.steps_per_epoch)
            for batch in itertools.islice(self._shards.batches(epoch, first), self._stop_at - self._step):
                self._work_on(batch, epoch)
        if self._step > first_step:
            self._save_at_end()
        duration_s = time.monotonic() - started
        rows = (self._step - first_step) * self._plan.batch_size
        return Fitted(
            steps=self._step,
            loss=self._loss,
            duration_s=duration_s,
            rows_per_s=rows / duration_s if duration_s else 0.0,
            resumed_from_step=resumed,
        )

    def _start(self) -> int | None:
        """Equal weights on every rank, from the newest checkpoint when there is one; returns its step."""
        torch.manual_seed(self._plan.seed * 100_003 + self._gang.rank)
        files = self._newest_files()
        if files is None:
            for tensor in self._model.state_dict().values():
                self._gang.copy_from_first(tensor)
            return None
        self._position().check_same_walk(read_position(files))
        position = restore(files, self._model, self._optimizer, self._gang.rank)
        self._step = position.step
        self._say(f"Resuming from the checkpoint of step {self._step} of {self._total_steps}.")
        return self._step

    def _newest_files(self) -> Mapping[str, bytes] | None:
        """Rank 0 chooses, so that all ranks take up the same one."""
        if self._checkpoints is None:
            return None
        newest = self._checkpoints.load_latest() if self._gang.is_first else None
        chosen = torch.tensor([newest.step if newest else -1], device=self._gang.device)
        self._gang.copy_from_first(chosen)
        if int(chosen) >= 0 and newest is None:
            newest = self._checkpoints.load(int(chosen))
        return newest.files if newest else None

    def _work_on(self, batch: Batch, epoch: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.learning_rate * warm_cosine(self._step, self._total_steps)
        loss_sum = self._loss_of_rows(batch.rows) if len(batch.rows) else None
        norms = self._norms(batch)
        self._loss = average_gradients(loss_sum, self._parameters, batch.num_global_rows, self._gang, norms)
        if not math.isfinite(self._loss):
            raise LossNotFinite(
                f"The loss became {self._loss} in epoch {epoch + 1}, step {self._step + 1} (learning rate "
                f"{self._plan.learning_rate:g}).",
                next_action="Lower the learning rate, and look for missing or huge values in the data.",
            )
        self._optimizer.step()
        self._step += 1
        self._after_step(epoch)
        if self._trial is not None:
            self._trial.mark("fit", self._step)

    def _after_step(self, epoch: int) -> None:
        plan, is_last = self._plan, self._step == self._total_steps
        due = plan.checkpoint_every_steps and self._step % plan.checkpoint_every_steps == 0
        if due and not is_last and self._trial is None:
            self._save()
        if self._step * _LINES // self._total_steps > (self._step - 1) * _LINES // self._total_steps:
            self._say(f"step {self._step} of {self._total_steps}, epoch {epoch + 1}: loss {self._loss:.4g}")
        if self._step % plan.report_every_steps == 0 or is_last:
            if self._gang.is_first:
                self._report({"train/loss": self._loss, "train/epoch": epoch + 1}, self._step)
            self._leave_when_asked()

    # A trial: the first steps only, and what a checkpoint takes, timed by itself.

    def _begin_trial(self, first_step: int) -> None:
        if self._trial is not None:
            plan, rows = self._plan, self._shards.num_rows
            left = self._total_steps - first_step
            self._stop_at = first_step + self._trial.begin("fit", left, batch_size=plan.batch_size, num_rows=rows)

    def _norms(self, batch: Batch) -> Callable[[float, float], None] | None:
        """In the warm-up of a trial of several workers: what the gradient noise scale is made of."""
        tried, rows, whole = self._trial, len(batch.rows), batch.num_global_rows
        if tried is None or not tried.is_warming_up(self._step) or not 0 < rows < whole:
            return None
        return lambda part, all_of_it: tried.saw_gradients(rows, part * (whole / rows) ** 2, whole, all_of_it)

    def _save_at_end(self) -> None:
        began = time.monotonic()
        self._save()
        if self._trial is not None and self._checkpoints is not None:
            between = time.monotonic()
            self._save()  # the first of a process is slower than all that follow
            every = self._plan.checkpoint_every_steps
            count = 1 + ((self._total_steps - 1) // every if every else 0)
            self._trial.saw_checkpoint(min(between - began, time.monotonic() - between), count)

    def _say(self, line: str) -> None:
        if self._gang.is_first:
            print(line, flush=True)

    def _leave_when_asked(self) -> None:
        """All ranks leave together, with a checkpoint, when one of them was asked to stop."""
        asked = torch.tensor([float(self._gang.stop_asked)], device=self._gang.device)
        self._gang.add_up(asked)
        if float(asked) > 0:
            self._save()
            raise SystemExit(143)

    def _position(self) -> Position:
        steps = self._shards.steps_per_epoch
        return Position(
            step=self._step,
            epoch=self._step // steps,
            step_in_epoch=self._step % steps,
            seed=self._plan.seed,
            batch_size=self._plan.batch_size,
            num_rows=self._shards.num_rows,
            world_size=self._gang.world_size,
        )

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        random_states = [state.cpu() for state in self._gang.gather(torch.get_rng_state().to(self._gang.device))]
        if self._gang.is_first:
            deliver()
            files = to_files(self._model, self._optimizer, random_states, self._position())
            try:
                self._checkpoints.save(self._step, files)
            except StorageFull as error:
                # Hours of training are not thrown away for it; the older checkpoint still counts.
                self._say(f"No checkpoint was written at step {self._step}, and training goes on: {error}")


def warm_cosine(step: int, total_steps: int) -> float:
    """Share of the highest learning rate at a step: linear rise over the first tenth, then a cosine to zero."""
    rise = max(1, total_steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total_steps - rise)))


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
