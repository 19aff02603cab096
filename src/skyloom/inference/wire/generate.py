"""Regenerate the Python of `open_inference.proto`: ``python -m skyloom.inference.wire.generate [FOLDER]`` (needs grpcio-tools)."""

import sys
from pathlib import Path

PROTO = "skyloom/inference/wire/open_inference.proto"


def main(out: Path) -> int:
    """Write the generated modules below ``out``, in their package's folders; return protoc's exit code."""
    from grpc_tools import protoc  # a tool of developers, not part of any installation

    source = Path(__file__).parents[3]
    arguments = ["protoc", f"-I{source}", f"--python_out={out}", f"--grpc_python_out={out}", PROTO]
    return int(protoc.main(arguments))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[3]))
