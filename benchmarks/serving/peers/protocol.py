"""What each peer's server does with a request: ONNX Runtime on one thread, the Open Inference Protocol's JSON in and out."""

import os

import numpy as np
import onnxruntime

TYPES = {"FP32": np.float32, "INT64": np.int64}


class Loaded:
    """The model that MODEL names, on one thread: every peer runs one process for each core."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.inputs = self.session.get_inputs()
        self.output = self.session.get_outputs()[0].name

    def run(self, inputs):
        """The output of some named inputs."""
        return self.session.run(None, inputs)[0]

    def run_together(self, requests):
        """The outputs of several requests' inputs, in one batch."""
        joined = {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}
        ends = np.cumsum([len(next(iter(inputs.values()))) for inputs in requests])[:-1]
        return np.split(self.run(joined), ends)

    def answer(self, output):
        """The answer's JSON around an output."""
        described = {"name": self.output, "datatype": "FP32", "shape": list(output.shape)}
        return {"model_name": "model", "outputs": [{**described, "data": output.ravel().tolist()}]}


def inputs_of(body):
    """The named arrays of a request's JSON."""
    return {
        tensor["name"]: np.array(tensor["data"], dtype=TYPES[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in body["inputs"]
    }
