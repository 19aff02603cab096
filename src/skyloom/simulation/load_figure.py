"""Drawing how replicas followed a load: requests in the system, replicas that were paid, the longest waits. As a web page or a picture."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import msgspec

from skyloom.durable import disk_errors
from skyloom.simulation.autoscaling import ScalingReport
from skyloom.simulation.figure import COLOURS, check_figure, need_matplotlib
from skyloom.simulation.replicas import Answered, LoadPoint

_MAX_LINES = 8
_NUM_BINS = 400
_LEFT, _WIDTH, _HEIGHT, _TOP, _GAP = 70, 1_000, 150, 70, 45


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One of the figure's curves: for each policy, values over equal parts of the time; ``top`` is the highest of all."""

    title: str
    lines: tuple[tuple[float, ...], ...]
    top: float


class LoadFigure(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn. ``end_s`` counts from the first request."""

    title: str
    end_s: float
    names: tuple[str, ...]
    panels: tuple[Panel, ...]


def write_load_figure(report: ScalingReport, answered: Mapping[str, Answered], path: Path) -> None:
    """Draw a comparison. Raises what `check_figure` raises, `StorageFull` and `NotPermitted`."""
    check_figure(path)
    drawn = load_figure(report, answered)
    with disk_errors(path):
        if path.suffix.lower() == ".html":
            path.write_text(load_page(drawn), encoding="utf-8")
        else:
            _write_png(drawn, path)


def load_figure(report: ScalingReport, answered: Mapping[str, Answered]) -> LoadFigure:
    """What to draw of the first few policies."""
    names = list(answered)[:_MAX_LINES]
    shown = [answered[name] for name in names]
    begin = min(one.points[0].at for one in shown)
    end = max(one.ended_at for one in shown)

    def panel(title: str, value: Callable[[LoadPoint], float], joined: Callable[[float, float, float], float]) -> Panel:
        lines = [_binned(one.points, begin, end, value, joined) for one in shown]
        return Panel(title=title, lines=tuple(lines), top=max((max(line) for line in lines), default=0.0) or 1.0)

    return LoadFigure(
        title=f"{report.log}: {report.num_requests:,} requests",
        end_s=end - begin,
        names=tuple(names),
        panels=(
            panel("requests in the system", lambda point: point.load, _added),
            panel("replicas paid", lambda point: point.paid, _added),
            panel("longest wait, seconds", lambda point: point.wait_s, lambda kept, value, _: max(kept, value)),
        ),
    )


def load_page(drawn: LoadFigure) -> str:
    """The figure as one web page, without scripts; names are text in it, whatever they hold."""
    height = _TOP + (_HEIGHT + _GAP) * len(drawn.panels) + 10
    body = [_legend(drawn.names)]
    for place, panel in enumerate(drawn.panels):
        body += _panel(panel, _TOP + (_HEIGHT + _GAP) * place, drawn.end_s)
    title = escape(drawn.title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 40}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="11"><text x="{_LEFT}" y="20" font-size="15">{title}</text>'
        f"{''.join(body)}</svg></html>\n"
    )


def _added(kept: float, value: float, part: float) -> float:
    return kept + value * part


def _binned(
    points: Sequence[LoadPoint],
    begin: float,
    end: float,
    value: Callable[[LoadPoint], float],
    joined: Callable[[float, float, float], float],
) -> tuple[float, ...]:
    """Values over equal parts of the time; ``joined`` takes what a part has, a value, and how much of the part it fills."""
    width = (end - begin) / _NUM_BINS or 1.0
    found, since = [0.0] * _NUM_BINS, begin
    for point in points:
        first, last = (min(_NUM_BINS - 1, max(0, int((at - begin) / width))) for at in (since, point.at))
        for place in range(first, last + 1):
            low, high = begin + place * width, begin + (place + 1) * width
            part = (min(high, point.at) - max(low, since)) / width
            if part > 0:
                found[place] = joined(found[place], value(point), part)
        since = point.at
    return tuple(found)


def _panel(panel: Panel, top: float, end_s: float) -> list[str]:
    parts = [
        f'<text x="{_LEFT}" y="{top - 6}">{escape(panel.title)}</text>',
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>',
    ]
    for share in (0.0, 0.5, 1.0):
        y = top + _HEIGHT * (1 - share) + 4
        parts.append(f'<text x="{_LEFT - 6}" y="{y:.0f}" text-anchor="end">{panel.top * share:.3g}</text>')
    for quarter in range(5):
        x = _LEFT + _WIDTH * quarter / 4
        label = f"{end_s * quarter / 4:,.0f} s"
        parts.append(f'<text x="{x:.0f}" y="{top + _HEIGHT + 14}" text-anchor="middle">{label}</text>')
    for place, line in enumerate(panel.lines):
        dots = " ".join(
            f"{_LEFT + _WIDTH * (spot + 0.5) / len(line):.1f},{top + _HEIGHT * (1 - value / panel.top):.1f}"
            for spot, value in enumerate(line)
        )
        parts.append(f'<polyline points="{dots}" fill="none" stroke="{COLOURS[place]}" stroke-width="1.3"/>')
    return parts


def _legend(names: Sequence[str]) -> str:
    step = _WIDTH / max(1, len(names))
    return "".join(
        f'<rect x="{_LEFT + step * place:.0f}" y="30" width="10" height="10" fill="{COLOURS[place]}"/>'
        f'<text x="{_LEFT + step * place + 14:.0f}" y="39">{escape(name[: int(step / 6)])}</text>'
        for place, name in enumerate(names)
    )


def _write_png(drawn: LoadFigure, path: Path) -> None:
    import warnings

    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots(len(drawn.panels), 1, sharex=True)
    axes[0].set_title(drawn.title, parse_math=False)
    times = [drawn.end_s * (spot + 0.5) / _NUM_BINS for spot in range(_NUM_BINS)]
    for axis, panel in zip(axes, drawn.panels, strict=True):
        for place, line in enumerate(panel.lines):
            axis.plot(times, line, color=COLOURS[place], linewidth=1.2, label=drawn.names[place])
        axis.set_ylabel(panel.title)
        axis.set_ylim(0, panel.top * 1.02)
    for text in axes[0].legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    axes[-1].set_xlabel("seconds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script that the font lacks is drawn as boxes
        picture.savefig(path, format="png", dpi=120)
