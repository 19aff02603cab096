"""How a recipe starts and how it fails: with one line for people, never with a stack trace. Imports no torch."""

import argparse
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from skyloom.core.errors import InvalidInput, SkyloomError
from skyloom.durable import disk_errors
from skyloom.runtime.context import context
from skyloom.runtime.failure import fail
from skyloom.runtime.report import flush
from skyloom.runtime.training import rows, training


class LibraryMissing(InvalidInput):
    """A library that training needs is not installed."""


def start(trainer: str, arguments: Sequence[str] | None = None) -> int:
    """Run ``<trainer>.run(plan, rows)``; returns the exit code. ``trainer`` is a module that may import torch."""
    parser = argparse.ArgumentParser(description="Train a model on a dataset version.")
    parser.add_argument("--config", type=Path, help="JSON file: a TrainingPlan; by default what the job was told")
    asked = parser.parse_args(arguments)
    try:
        plan = training(asked.config)
        require("torch", "onnx", "onnxscript", "safetensors", "onnxruntime")
        with disk_errors(context().task_folder):
            importlib.import_module(trainer).run(plan, rows(plan))
    except SkyloomError as error:
        return fail(error)
    finally:
        flush()
    return 0


def require(*modules: str) -> None:
    """Raise `LibraryMissing` unless all are installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise LibraryMissing(
                f"{module} is not installed here.",
                next_action="Install it: pip install torch==2.13.0, then pip install 'skyloom[train]'.",
            )
