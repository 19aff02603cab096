"""What each peer's server does with a request: ONNX Runtime on one thread, the Open Inference Protocol's JSON in and out."""

import os

import numpy as np
import onnxruntime


def session():
    """The model that MODEL names, on one thread: every peer runs one process for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


def rows_of(body):
    """The rows of a request."""
    tensor = body["inputs"][0]
    return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])


def answer_of(scores):
    """The answer around some scores."""
    described = {"name": "scores", "datatype": "FP32", "shape": list(scores.shape)}
    return {"model_name": "model", "outputs": [{**described, "data": scores.ravel().tolist()}]}
