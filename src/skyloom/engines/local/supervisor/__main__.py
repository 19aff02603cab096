"""Start one part of the supervisor: ``python -I -S supervisor shim FOLDER``, ``python supervisor warm FD``, ``... call FOLDER``,
``python -I -S supervisor start FOLDER``.

Python puts this folder first on its path; the package is imported from the folder above instead, and then neither stays there,
so that no user module is ever shadowed by one of ours.
"""

import importlib
import os
import sys


def main(verb: str, argument: str) -> int:
    """Run one verb and return its exit code."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.dirname(here)
    package = os.path.basename(here)
    name = {"shim": "shim", "warm": "zygote", "call": "python", "start": "start"}[verb]
    part = importlib.import_module(f"{package}.{name}")
    del sys.path[0]
    code: int = part.main(argument)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
