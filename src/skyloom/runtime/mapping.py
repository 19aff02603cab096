"""The program of one task of a map: one function, a chunk of inputs, and what came of each.

    python -m skyloom.runtime.mapping FILE FUNCTION

``.skyloom-inputs.json`` in the working folder is a list of chunks, and this task's is told by its place in the array. A chunk is a list of
``{"args": [...], "kwargs": {...}}``. The result is a list as long as the chunk: ``{"ok": value}`` or ``{"error": {...}}`` for each input.
What succeeded is kept about once a second, so that another attempt of the same task does only the others.
"""

import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skyloom.durable import write_private
from skyloom.ports.engine import ERROR_FILE, INPUTS_FILE
from skyloom.runtime.context import context
from skyloom.settings import TaskEnvironment

MAX_TRACEBACK = 8_000
_MAX_RESULT_BYTES = 16 * 2**20
_KEPT, _KEEP_EVERY_S = "outcomes.json", 1.0


def main(argv: list[str]) -> int:
    """Run the chunk; 1 when an input failed, so that the task counts as failed and may be tried again."""
    file, name = argv
    here, told = context(), TaskEnvironment.read()
    chunk = json.loads(Path(INPUTS_FILE).read_bytes())[told.array_offset]
    kept = here.shared_folder / _KEPT
    outcomes: list[Any] = json.loads(kept.read_bytes()) if kept.exists() else [None] * len(chunk)
    body, keep_at = load(Path(file), name), 0.0
    for place, (before, given) in enumerate(zip(outcomes, chunk, strict=True)):
        if before is None or "error" in before:
            outcomes[place] = attempt(body, given)
            if time.monotonic() >= keep_at:
                write_private(kept, _written(outcomes))
                keep_at = time.monotonic() + _KEEP_EVERY_S
    content = _written(outcomes)
    write_private(kept, content)
    write_private(here.task_folder / "result.json", content)
    failed = [outcome["error"] for outcome in outcomes if "error" in outcome]
    if failed:
        told_as = {
            "message": f"{len(failed)} of {len(chunk)} inputs failed: {failed[0]['type']}: {failed[0]['message']}"
        }
        write_private(here.task_folder / ERROR_FILE, json.dumps(told_as).encode())
    return 1 if failed else 0


def _written(outcomes: list[Any]) -> bytes:
    content = json.dumps(outcomes).encode()
    if len(content) > _MAX_RESULT_BYTES:
        raise ValueError(
            f"the results of {len(outcomes)} inputs have {len(content)} bytes; write them to files, or use a smaller chunk"
        )
    return content


def load(path: Path, name: str) -> Callable[..., Any]:
    """Import a file under its own name and return its function, undecorated."""
    sys.path.insert(0, str(path.parent.absolute()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    body: Callable[..., Any] = getattr(module, name)
    return body


def attempt(body: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Call the function once; what it raises, and a result that is no JSON, is an outcome too."""
    try:
        value = body(*given.get("args", ()), **given.get("kwargs", {}))
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # no NaN, no half of a character
    except Exception as error:
        text = _plain("".join(traceback.format_exception(type(error), error, _theirs(error))))
        print(text, file=sys.stderr)
        told = {
            "type": type(error).__name__,
            "message": _plain(str(error))[:MAX_TRACEBACK],
            "traceback": text[-MAX_TRACEBACK:],
        }
        return {"error": told}
    return {"ok": value}


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _theirs(error: BaseException) -> Any:
    """The traceback without our own frames at its top."""
    own = error.__traceback__
    while own is not None and own.tb_next is not None and own.tb_frame.f_code.co_filename in _OURS:
        own = own.tb_next
    return own


_OURS = frozenset({__file__, str(Path(__file__).parents[1] / "sdk" / "function.py")})

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
