"""Where things stand and how large they are: the rules that a reviewer would otherwise have to remember."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import skyloom

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "skyloom"
GENERATED = ("open_inference_pb2",)
MODULES = sorted(path for path in SRC.rglob("*.py") if not path.stem.startswith(GENERATED))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PUBLIC_NAMES = 600, 70, 20


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def named(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_import_contracts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, is_debug_mode=False) == 0


def test_files_and_functions_stay_within_their_budgets() -> None:
    too_long = [named(path) for path in MODULES if len(path.read_text().splitlines()) > MAX_FILE_LINES]
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    too_long.append(f"{named(path)}: {node.name} has {lines} lines")
    assert not too_long


def test_public_surface_is_frozen() -> None:
    public = [
        "Client",
        "Service",
        "SkyloomError",
        "Tensor",
        "TriggerEvent",
        "__version__",
        "connect",
        "endpoint",
        "function",
    ]
    assert skyloom.__all__ == public
    assert len(skyloom.__all__) <= MAX_PUBLIC_NAMES
    for name in skyloom.__all__:
        assert getattr(skyloom, name) is not None


def classes(paths: list[Path]) -> Counter[str]:
    found = (node.name for path in paths for node in tree(path).body if isinstance(node, ast.ClassDef))
    return Counter(name for name in found if not name.startswith("_"))


def test_nouns_have_one_name_each() -> None:
    """Of rooms, ports and core: the OpenAPI page, the reference and every reader know them by that name alone."""
    domain = [path for path in MODULES if named(path).startswith(("rooms/", "ports/", "core/"))]
    assert {name for name, count in classes(domain).items() if count > 1} <= {"Role"}


def test_class_names_are_unique() -> None:
    assert {name for name, count in classes(MODULES).items() if count > 1} <= TWINS


# A task of a table is no task of a job, and so on. Debt: rename one of each pair. The set only ever gets smaller.
TWINS = {"Column", "Model", "Reporter", "Replica", "Task", "Role"}


def test_no_shell_and_no_pickle_anywhere() -> None:
    found = []
    for path in MODULES:
        found += [f"{named(path)} imports {name}" for name in imported(path) if name.partition(".")[0] in UNSAFE]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.keyword) and node.arg == "shell" and not is_false(node.value):
                found.append(f"{named(path)}:{node.value.lineno} shell=")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"os.system", "os.popen", "eval", "exec"}:
                found.append(f"{named(path)} {ast.unparse(node.func)}")
    # Running a user's file is what the supervisor is for.
    assert [item for item in found if item != "engines/local/supervisor/python.py exec"] == []


UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_only_settings_read_the_environment() -> None:
    readers = {
        named(path)
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute | ast.ImportFrom) and ({"environ", "environb", "getenv"} & names_of(node))
    }
    # The supervisor makes the environment of user code; it decides nothing by what it finds there.
    assert readers - {"engines/local/supervisor/python.py"} == {"settings.py"}


def names_of(node: ast.Attribute | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {alias.name for alias in node.names} if node.module == "os" else set()
    return {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "os" else set()


def test_forbidden_words_name_nothing() -> None:
    words = ("Manager", "Helper", "Util", "Handler", "Common", "Data", "Info", "Impl", "Misc")
    found = [
        f"{named(path)}: {node.name}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and node.name.endswith(words) and node.name.lower() != path.parent.name
    ]
    assert not found


HEAVY = (
    "httpx",
    "starlette",
    "numpy",
    "torch",
    "pyarrow",
    "rich",
    "skyloom.rooms",
    "skyloom.sdk",
    "skyloom.cloud",
    "skyloom.faces",
)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from skyloom.cli import main; code = main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


def test_import_skyloom_imports_nothing_heavy() -> None:
    code = f"import sys, skyloom; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
