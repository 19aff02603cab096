"""Triton with its Python backend, by PyTriton: two instances, dynamic batching."""

import os
import sysconfig

from protocol import TYPES, Loaded
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

_NAMES = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}


def instance():
    model = Loaded()

    @batch
    def infer(**inputs):
        return [model.run(inputs)]

    return infer


def shape_of(node):
    return tuple(axis if isinstance(axis, int) else -1 for axis in node.shape[1:])


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    # Triton's stub runs this Python's library, so it must run it with this Python, not with the machine's first libpython3.11.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    nodes = Loaded().inputs
    config = TritonConfig(http_address="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=[instance(), instance()],
            inputs=[Tensor(name=node.name, dtype=TYPES[_NAMES[node.type]], shape=shape_of(node)) for node in nodes],
            outputs=[Tensor(name=Loaded().output, dtype=TYPES["FP32"], shape=(-1,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher()),
            strict=False,
        )
        triton.serve()
