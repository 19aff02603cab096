"""Start one part of the supervisor: ``python -I -S supervisor shim FOLDER``, ``python supervisor warm FD``, ``... call FOLDER``,
``python -I -S supervisor start FOLDER``.

``disown FOLDER`` is ``shim`` in a process that is nobody's child; its pid is written to standard output.

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
    name = {"shim": "shim", "disown": "shim", "warm": "zygote", "call": "python", "start": "start"}[verb]
    part = importlib.import_module(f"{package}.{name}")
    del sys.path[0]
    if verb == "disown" and not _is_disowned():
        return 0
    code: int = part.main(argument)
    return code


def _is_disowned() -> bool:
    """Fork; the parent says who the child is, and is False. The child lets go of what the parent says it by."""
    pid = os.fork()
    if pid:
        os.write(1, b"%d\n" % pid)
        return False
    os.dup2(2, 1)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
