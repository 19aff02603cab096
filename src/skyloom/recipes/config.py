"""A recipe's own parameters, read from the plan of the training."""

from typing import TypeVar

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.rooms.training.model import TrainingPlan

P = TypeVar("P", bound=msgspec.Struct)


class BadParameters(InvalidInput):
    """A parameter is not one that the recipe has, or its value cannot be meant."""


def parameters(plan: TrainingPlan, kind: type[P]) -> P:
    """The recipe's parameters, checked. Raises `BadParameters`."""
    try:
        return msgspec.convert(plan.parameters, kind)
    except msgspec.ValidationError as error:
        known = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise BadParameters(
            f"The parameters cannot be meant: {error}.", next_action=f"The recipe has: {known}."
        ) from error
