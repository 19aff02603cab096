"""How a recipe starts and how it fails: with one line for people, never with a stack trace. Imports no torch."""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from skyloom.core.errors import Category, InvalidInput, SkyloomError
from skyloom.runtime.report import flush
from skyloom.runtime.training import rows, training

INVALID_EXIT, FAILED_EXIT = 2, 1


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
        importlib.import_module(trainer).run(plan, rows(plan))
    except SkyloomError as error:
        print(f"skyloom: {error}", file=sys.stderr, flush=True)
        return INVALID_EXIT if error.category is Category.INVALID else FAILED_EXIT
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
