"""Triton itself with its Python backend, two instances, dynamic batching: the server and its stub come with PyTriton, whose own proxy is
left out because it costs several times what Triton does."""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytriton
from protocol import Loaded

_TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}
_CONFIG = """
name: "model"
backend: "python"
max_batch_size: 64
dynamic_batching {{ }}
instance_group [ {{ count: 2 kind: KIND_CPU }} ]
input [ {inputs} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [ -1 ] }} ]
"""


def shape_of(node):
    """Its dimensions without the batch's."""
    return ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in node.shape[1:])


def laid_out(folder):
    """A repository with the one model, and the server's backend with the stub of this Python."""
    loaded = Loaded()
    inputs = ", ".join(
        f'{{ name: "{node.name}" data_type: TYPE_{_TYPES[node.type]} dims: [ {shape_of(node)} ] }}'
        for node in loaded.inputs
    )
    version = folder / "models" / "model" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(_CONFIG.format(inputs=inputs, output=loaded.output))
    shutil.copy(Path(__file__).with_name("triton_model.py"), version / "model.py")
    server = Path(pytriton.__file__).parent / "tritonserver"
    shutil.copytree(server / "backends", folder / "backends")
    stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(stub / "triton_python_backend_stub", folder / "backends" / "python")
    return server


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="triton-"))
    server = laid_out(folder)
    libraries = Path(pytriton.__file__).parent.parent / "nvidia_pytriton.libs"
    # The stub runs this Python's library, so it must find that before the machine's first of the same version.
    found = f"{sysconfig.get_config_var('LIBDIR')}:{libraries}"
    os.environ.update(LD_LIBRARY_PATH=found, PYTHONPATH=os.pathsep.join(sys.path), PYTHONHOME=sys.base_prefix)
    port = int(os.environ["PORT"])
    argv = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--http-port={port}",
        f"--grpc-port={port + 1}",
        f"--metrics-port={port + 2}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
    ]
    os.execv(argv[0], argv)
