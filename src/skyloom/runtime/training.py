"""What this training was told: data, target, parameters, the name to register under."""

from pathlib import Path

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.rooms.training.model import TrainingPlan
from skyloom.runtime.rows import RowSource, TableRows
from skyloom.settings import TaskEnvironment


class NoTraining(InvalidInput):
    """This process was told of no training, or of one that cannot be meant."""


def training(path: Path | None = None) -> TrainingPlan:
    """The plan of this process's run; from a JSON file when a path is given. Raises `NoTraining`."""
    if path is None and not TaskEnvironment.read().training:
        raise NoTraining(
            "This process is no training of a cloud.", next_action="Start it with skyloom train, or give --config FILE."
        )
    try:
        content = path.read_bytes() if path else TaskEnvironment.read().training.encode()
        return msgspec.json.decode(content, type=TrainingPlan)
    except OSError as error:
        raise NoTraining(f"{path} cannot be read: {error.strerror}.", next_action="Check the path.") from error
    except msgspec.MsgspecError as error:
        raise NoTraining(f"The training cannot be meant: {error}.", next_action="Correct that field.") from error


def rows(plan: TrainingPlan) -> RowSource:
    """The rows that a training is about. Raises `NoTraining` when it has no dataset."""
    if plan.data is None:
        raise NoTraining("The training has no dataset.", next_action="Name one: skyloom train --dataset NAME.")
    return TableRows(plan.data)
