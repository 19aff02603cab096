"""Triton with its Python backend, by PyTriton: two instances, dynamic batching."""

import os
import sysconfig

import numpy as np
from protocol import session
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance(shape):
    loaded = session()

    @batch
    def infer(x):
        return [loaded.run(None, {"x": x})[0]]

    return infer


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    # Triton's stub runs this Python's library, so it must run it with this Python, not with the machine's first libpython3.11.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    shape = tuple(session().get_inputs()[0].shape[1:])
    config = TritonConfig(http_address="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=[instance(shape), instance(shape)],
            inputs=[Tensor(name="x", dtype=np.float32, shape=shape)],
            outputs=[Tensor(name="scores", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher()),
            strict=False,
        )
        triton.serve()
