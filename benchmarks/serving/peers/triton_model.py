"""What Triton's Python backend runs: each instance is a process, a call brings all requests of a batch."""

import triton_python_backend_utils as triton
from protocol import Loaded


class TritonPythonModel:
    """The model, as the backend asks for it."""

    def initialize(self, args):
        """Load it."""
        self._loaded = Loaded()
        self._names = [node.name for node in self._loaded.inputs]

    def execute(self, requests):
        """Answer a batch of requests."""
        asked = [
            {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._names}
            for request in requests
        ]
        outputs = self._loaded.run_together(asked)
        return [triton.InferenceResponse([triton.Tensor(self._loaded.output, output)]) for output in outputs]
