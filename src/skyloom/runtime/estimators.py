"""Fitted estimators as ONNX: scikit-learn through skl2onnx; XGBoost and LightGBM through onnxmltools, where they are installed."""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.core.errors import InvalidInput
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec

Array = NDArray[Any]
TOLERANCE = 1e-3  # of 32-bit floats through a pipeline
_OPSETS = {"": 18, "ai.onnx.ml": 3}  # what all of the converters speak
# The class that announces a library → what teaches the converter about it: estimator, shapes and converter, by import path.
_BOOSTED = {
    "xgboost": "onnxmltools.convert.xgboost.operator_converters.XGBoost",
    "lightgbm": "onnxmltools.convert.lightgbm.operator_converters.LightGbm",
}


class NotConvertible(InvalidInput):
    """The estimator has no form in ONNX, or what it takes to convert it is not installed."""


@dataclass(frozen=True)
class Converted:
    """An estimator as ONNX. ``labels`` are a classifier's classes, in the order of its scores; empty for a regressor."""

    content: bytes
    signature: Signature
    labels: tuple[str, ...]


def convert(estimator: Any, num_features: int) -> Converted:
    """Convert a fitted estimator of numeric columns. Raises `NotConvertible`."""
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise NotConvertible(
            f"Estimators are converted with skl2onnx, and {error.name} is not installed.",
            next_action="Install it: pip install 'skyloom[sklearn]'.",
        ) from error
    is_classifier = hasattr(estimator, "predict_proba") and hasattr(estimator, "classes_")
    options = {id(estimator): {"zipmap": False}} if is_classifier else None
    _teach(estimator)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converter's own libraries
            made = to_onnx(
                estimator,
                initial_types=[("x", FloatTensorType([None, num_features]))],
                options=options,
                target_opset=_OPSETS,
            )
    except Exception as error:  # each library raises its own kinds
        raise NotConvertible(
            f"A {type(estimator).__name__} cannot be converted to ONNX: {str(error).splitlines()[0][:300]}",
            next_action="Fit it first, with numeric columns; or serve it as your own Python: skyloom.Service.",
        ) from error
    given = 1 if is_classifier else 0
    name = "scores" if is_classifier else "value"
    _rename_output(made, given, name)
    labels = tuple(str(label) for label in estimator.classes_) if is_classifier else ()
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, num_features)),),
        outputs=(TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, len(labels) or 1)),),
    )
    return Converted(made.SerializeToString(), signature, labels)


def expected(estimator: Any, rows: Array) -> Array:
    """What the estimator itself says: scores per class, or one number a row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns that have no names
        if hasattr(estimator, "predict_proba"):
            return np.asarray(estimator.predict_proba(rows), np.float32)
        return np.asarray(estimator.predict(rows), np.float32).reshape(len(rows), -1)


def _teach(estimator: Any) -> None:
    """Tell skl2onnx of boosted trees, inside of pipelines too."""
    for part in (estimator, *(step for _, step in getattr(estimator, "steps", ()))):
        library = type(part).__module__.partition(".")[0]
        if library not in _BOOSTED:
            continue
        try:
            from skl2onnx import update_registered_converter

            converters = importlib.import_module(_BOOSTED[library])
            shapes = importlib.import_module("skl2onnx.common.shape_calculator")
        except ImportError as error:
            raise NotConvertible(
                f"A {type(part).__name__} is converted with onnxmltools, which is not installed.",
                next_action="Install it: pip install onnxmltools.",
            ) from error
        name = type(part).__name__
        found = getattr(converters, "convert_xgboost" if library == "xgboost" else "convert_lightgbm")
        if name.endswith("Classifier"):
            update_registered_converter(
                type(part),
                name,
                shapes.calculate_linear_classifier_output_shapes,
                found,
                options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
            )
        else:
            update_registered_converter(type(part), name, shapes.calculate_linear_regressor_output_shapes, found)


def _rename_output(made: Any, index: int, name: str) -> None:
    """Call an output what it means; the others (a classifier's label) stay, and nobody asks for them."""
    output = made.graph.output[index]
    before, output.name = output.name, name
    for node in made.graph.node:
        for place, written in enumerate(node.output):
            if written == before:
                node.output[place] = name
        for place, read in enumerate(node.input):
            if read == before:
                node.input[place] = name
