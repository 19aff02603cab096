"""Pictures of forecasts: PNG by matplotlib where it is installed, HTML with a drawn curve by nothing at all."""

import html
import math
from pathlib import Path
from typing import Any

from skyloom.cli.render import to_json
from skyloom.cli.wording import human
from skyloom.core.errors import InvalidInput, NotPermitted, StorageFull
from skyloom.core.money import usd
from skyloom.durable import disk_errors
from skyloom.rooms.planning.model import Estimate, Forecast, TimePlan

_WIDTH, _HEIGHT, _EDGE = 720, 400, 60


class PictureImpossible(InvalidInput):
    """The picture cannot be drawn into that file."""


def check(path: Path) -> None:
    """Raise `PictureImpossible` for a file that nothing can be drawn into, before the long work begins."""
    if path.suffix not in {".png", ".html"}:
        raise PictureImpossible(f"{path} is no .png or .html.", next_action="Name the file so: plan.html.")
    if not path.absolute().parent.is_dir():
        raise PictureImpossible(f"There is no folder {path.parent}.", next_action="Make it first.")
    if path.suffix == ".png":
        _figure_type()


def draw(forecast: Forecast | TimePlan, path: Path) -> None:
    """Draw time over workers with its interval, and the choice. Raises `PictureImpossible`, `StorageFull`, `NotPermitted`."""
    try:
        with disk_errors(path.absolute().parent):
            if path.suffix == ".png":
                _draw_png(forecast, path)
            else:
                path.write_text(page(forecast), encoding="utf-8")
    except (StorageFull, NotPermitted):
        raise
    except OSError as error:
        raise PictureImpossible(f"{path} cannot be written: {error.strerror}.", next_action="Name another.") from error


def page(forecast: Forecast | TimePlan) -> str:
    """A web page with the curve, the choice and all numbers; needs no other file."""
    scale = _Scale(forecast.predictions)
    band = [scale.point(one.workers, one.high_s) for one in forecast.predictions]
    band += [scale.point(one.workers, one.low_s) for one in reversed(forecast.predictions)]
    line = " ".join(scale.point(one.workers, one.seconds) for one in forecast.predictions)
    chosen = forecast.chosen
    x, y = scale.point(chosen.workers, chosen.seconds).split(",")
    told = f"{chosen.workers} workers, {human('_s', chosen.seconds)}, {usd(chosen.cost_usd)}: {chosen.reason}"
    ticks = "".join(
        f'<text x="{scale.x(n):.1f}" y="{_HEIGHT - 35}" text-anchor="middle">{n}</text>' for n in scale.ticks()
    )
    rows = "".join(
        f"<tr><td>{one.workers}<td>{one.seconds:.4g}<td>{one.low_s:.4g}<td>{one.high_s:.4g}<td>{one.cost_usd:.4g}"
        for one in forecast.predictions
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Skyloom plan</title>
<style>body{{font:15px system-ui;margin:2em;max-width:60em}}td,th{{text-align:right;padding:0 1em}}text{{font-size:12px}}</style>
<h1>Time over workers</h1><p>{html.escape(told)}</p>
<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="time over workers">
<polygon points="{" ".join(band)}" fill="#4a90d9" opacity=".25"/>
<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>
<circle cx="{x}" cy="{y}" r="6" fill="#d9534f"/>
<text x="{_EDGE - 8}" y="{_EDGE}" text-anchor="end">{human("_s", scale.top)}</text>
<text x="{_EDGE - 8}" y="{_HEIGHT - _EDGE}" text-anchor="end">0</text>{ticks}
<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">workers</text></svg>
<p>The band holds nine runs of ten.</p>
<table><tr><th>workers<th>seconds<th>low<th>high<th>USD</tr>{rows}</table>
<details><summary>JSON</summary><pre>{html.escape(to_json(forecast))}</pre></details></html>
"""


class _Scale:
    """Workers by logarithm to the right, seconds up."""

    def __init__(self, estimates: tuple[Estimate, ...]) -> None:
        self.first, self.last = estimates[0].workers, estimates[-1].workers
        self.top = 1.25 * max(one.seconds for one in estimates)

    def x(self, workers: int) -> float:
        whole = math.log(self.last / self.first) or 1.0
        return _EDGE + (_WIDTH - 2 * _EDGE) * math.log(workers / self.first) / whole

    def point(self, workers: int, seconds: float) -> str:
        y = _HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * min(1.0, seconds / self.top)
        return f"{self.x(workers):.1f},{y:.1f}"

    def ticks(self) -> list[int]:
        powers = [2**power for power in range(11) if self.first <= 2**power <= self.last]
        return powers or [self.first]


def _draw_png(forecast: Forecast | TimePlan, path: Path) -> None:
    figure = _figure_type()(figsize=(8, 4.5))
    axes = figure.subplots()
    workers = [one.workers for one in forecast.predictions]
    lows, highs = [one.low_s for one in forecast.predictions], [one.high_s for one in forecast.predictions]
    axes.fill_between(workers, lows, highs, alpha=0.25, label="nine runs of ten")
    axes.plot(workers, [one.seconds for one in forecast.predictions], label="expected")
    axes.plot([forecast.chosen.workers], [forecast.chosen.seconds], "o", color="crimson", label="chosen")
    axes.set(xscale="log", xlabel="workers", ylabel="seconds", ylim=(0, _Scale(forecast.predictions).top))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def _figure_type() -> Any:
    """matplotlib's, without pyplot: that keeps every figure alive and looks for a screen."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PictureImpossible(
            "matplotlib is not installed, and a PNG needs it.",
            next_action="Install it: pip install 'skyloom[plot]'. Or draw an .html file.",
        ) from error
    return Figure
