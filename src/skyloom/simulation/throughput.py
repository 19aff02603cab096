"""Reading measured speeds: a CSV file ``model,num_gpus,samples_per_s``, one row a measurement."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from skyloom.simulation.trace import Sheet, open_sheet

COLUMNS = ("model", "num_gpus", "samples_per_s")
_MAX_MODELS = 1_000
_MAX_WORKERS = 10_000
_MAX_SPEED = 1e15


def read_throughput(path: Path) -> dict[str, tuple[float, ...]]:
    """Read how fast each model is with 1, 2, … GPUs, up to the most that was measured.

    Between two measurements the speed is a straight line; below the first, in proportion to the GPUs.
    Raises `TraceMissing` and `TraceUnreadable`.
    """
    with open_sheet(path) as sheet:
        sheet.check_columns(COLUMNS)
        measured: dict[str, dict[int, float]] = defaultdict(dict)
        for row in sheet.rows():
            cells = sheet.cells(row)
            num_gpus = sheet.whole(cells, "num_gpus", high=_MAX_WORKERS)
            points = measured[_model(sheet, cells)]
            if len(measured) > _MAX_MODELS:
                raise sheet.wrong(f"a file has at most {_MAX_MODELS:,} models", "model")
            if num_gpus in points:
                raise sheet.wrong(f"{cells['model']!r} with {num_gpus} GPUs stands above already", "num_gpus")
            points[num_gpus] = _speed(sheet, sheet.number(cells, "samples_per_s", high=_MAX_SPEED))
        if not measured:
            raise sheet.wrong("it has no measurements")
    return {model: _curve(points) for model, points in measured.items()}


def _model(sheet: Sheet, cells: Mapping[str, str]) -> str:
    name = sheet.text(cells, "model")
    if not name:
        raise sheet.wrong("it is empty", "model")
    return name


def _speed(sheet: Sheet, value: float) -> float:
    if value == 0:
        raise sheet.wrong("a speed is more than 0", "samples_per_s")
    return value


def _curve(points: dict[int, float]) -> tuple[float, ...]:
    known = sorted(points.items())
    curve: list[float] = []
    before, speed_before = 0, 0.0
    for num_gpus, value in known:
        for more in range(1, num_gpus - before + 1):
            curve.append(speed_before + (value - speed_before) * more / (num_gpus - before))
        before, speed_before = num_gpus, value
    return tuple(curve)
