"""What a recipe is told: one JSON file, made by the training room, read here."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.runtime.rows import TableSource

P = TypeVar("P")


class BadConfig(InvalidInput):
    """The configuration cannot be meant."""


class RecipeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training.

    Attributes:
        data: where the rows lie.
        dataset, dataset_version: how people call them.
        target: column to predict.
        model: name to register the result under; empty registers nothing.
        train_on, evaluate_on: splits.
        parameters: of the recipe; each recipe declares its own.
        code_digest: what the run's record says about the code.
    """

    data: TableSource
    target: str
    dataset: str = ""
    dataset_version: int = 0
    model: str = ""
    recipe: str = ""
    train_on: str = "train"
    evaluate_on: str = "test"
    parameters: dict[str, Any] = {}
    code_digest: str = ""


def read(path: Path) -> RecipeConfig:
    """Read the file. Raises `BadConfig` naming what is wrong in it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RecipeConfig)
    except FileNotFoundError:
        raise BadConfig(f"There is no file {path}.", next_action="Name the configuration with --config.") from None
    except msgspec.MsgspecError as error:
        raise BadConfig(f"{path} cannot be read: {error}.", next_action="Correct that field.") from error


def parameters(config: RecipeConfig, kind: type[P]) -> P:
    """The recipe's own parameters, checked. Raises `BadConfig`."""
    try:
        return msgspec.convert(config.parameters, kind)
    except msgspec.ValidationError as error:
        known = ", ".join(field.name for field in msgspec.structs.fields(kind))  # type: ignore[arg-type]
        raise BadConfig(f"The parameters cannot be meant: {error}.", next_action=f"There are: {known}.") from error
