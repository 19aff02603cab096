"""Drawing a simulation: who ran when (Gantt), and how much of the cluster was in use. As a web page, or as a picture by matplotlib."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec

from skyloom.core.errors import InvalidInput, NotFound, Unavailable
from skyloom.durable import disk_errors
from skyloom.simulation.metrics import curve, span
from skyloom.simulation.model import Played

MAX_ROWS = 60
_MAX_RUNS = 333  # of one job; 60 of them make 20,000 bars
_NUM_POINTS = 240
_MAX_LABEL = 24
# Tableau's ten, which people with colour blindness tell apart well enough; tenants beyond the tenth share the last.
COLOURS = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2"),
    *("#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac"),
)
_WAITING = "#d8d8d8"
_ROW, _LEFT, _WIDTH, _CURVE, _TOP = 16, 190, 900, 120, 60


class FigureRefused(InvalidInput):
    """A figure has to be a .html or a .png file."""


class FolderMissing(NotFound):
    """The folder that a file is to be written to does not exist."""


class PlotsMissing(Unavailable):
    """matplotlib is not installed."""


class Strip(msgspec.Struct, frozen=True, kw_only=True):
    """A job in the figure: its name, when it waited (from, to), and when it ran."""

    label: str
    colour: str
    waited: tuple[float, float]
    ran: tuple[tuple[float, float], ...]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn; times in seconds from the first submission on."""

    title: str
    end_s: float
    strips: tuple[Strip, ...]
    utilisation: tuple[float, ...]
    tenants: tuple[tuple[str, str], ...]
    note: str


def check_figure(path: Path) -> None:
    """Raise `FigureRefused`, `FolderMissing` or `PlotsMissing` before a long simulation rather than after it."""
    if path.suffix.lower() not in (".html", ".png"):
        raise FigureRefused(f"{path.name} is neither .html nor .png.", next_action="Name it plan.html or plan.png.")
    check_folder(path)
    if path.suffix.lower() == ".png":
        need_matplotlib()


def check_folder(path: Path) -> None:
    """Raise `FolderMissing` when a file cannot be written there."""
    if not path.parent.is_dir() or path.is_dir():
        raise FolderMissing(f"{path} is not a file in an existing folder.", next_action="Make the folder first.")


def write_figure(played: Played, path: Path) -> None:
    """Draw a simulation. Raises what `check_figure` raises, `StorageFull` and `NotPermitted`."""
    check_figure(path)
    drawn = figure(played)
    with disk_errors(path):
        if path.suffix.lower() == ".html":
            path.write_text(page(drawn), encoding="utf-8")
        else:
            _write_png(drawn, path)


def figure(played: Played) -> Figure:
    """What to draw of a simulation: all of its utilisation, and its first `MAX_ROWS` jobs."""
    begin, end = span(played)
    shown = played.jobs[:MAX_ROWS]
    tenants = list(dict.fromkeys(job.tenant for job in shown))
    colours = {tenant: COLOURS[min(place, len(COLOURS) - 1)] for place, tenant in enumerate(tenants)}
    ran: dict[str, list[tuple[float, float]]] = {life.gang: [] for life in played.lives[: len(shown)]}
    for stretch in played.outcome.stretches:
        if stretch.gang in ran and len(ran[stretch.gang]) < _MAX_RUNS:
            ran[stretch.gang].append((stretch.start_at - begin, stretch.end_at - begin))
    strips = [
        Strip(
            label=f"{_short(job.job_id)} ({job.num_gpus})",
            colour=colours[job.tenant],
            waited=(job.submit_s - begin, (end if life.ended_at is None else life.ended_at) - begin),
            ran=tuple(ran[life.gang]),
        )
        for job, life in zip(shown, played.lives, strict=False)
    ]
    cluster, policy = played.scenario.cluster, played.scenario.rules.policy
    all_jobs = f"{len(played.jobs):,} jobs"
    note = f"the first {len(shown)} of {all_jobs}" if len(shown) < len(played.jobs) else all_jobs
    if any(len(own) == _MAX_RUNS for own in ran.values()):
        note += f", of each its first {_MAX_RUNS} runs"
    return Figure(
        title=f"{policy.value}: {all_jobs} on {cluster.num_nodes} × {cluster.gpus_per_node} GPUs",
        end_s=end - begin,
        strips=tuple(strips),
        utilisation=tuple(curve(played, _NUM_POINTS)),
        tenants=tuple((_short(tenant) or "all", colours[tenant]) for tenant in tenants),
        note=note,
    )


def page(drawn: Figure) -> str:
    """The figure as one web page, without scripts; names are text in it, whatever they hold."""
    height = _TOP + _CURVE + 50 + _ROW * len(drawn.strips) + 40
    body = [_curve_svg(drawn), *_strips_svg(drawn), *_axis_svg(drawn, height - 30), *_legend_svg(drawn)]
    title = escape(drawn.title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 40}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="11"><text x="{_LEFT}" y="20" font-size="15">{title}</text>'
        f"{''.join(body)}</svg></html>\n"
    )


def _curve_svg(drawn: Figure) -> str:
    count = max(1, len(drawn.utilisation))
    corners = [f"{_LEFT},{_TOP + _CURVE}"]
    for place, share in enumerate(drawn.utilisation):
        y = _TOP + _CURVE * (1 - share)
        corners += [f"{_LEFT + _WIDTH * edge / count:.1f},{y:.1f}" for edge in (place, place + 1)]
    corners.append(f"{_LEFT + _WIDTH},{_TOP + _CURVE}")
    return (
        f'<polygon points="{" ".join(corners)}" fill="#4e79a7" fill-opacity="0.6"/>'
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_CURVE}" fill="none" stroke="#999"/>'
        + "".join(
            f'<text x="{_LEFT - 6}" y="{_TOP + _CURVE * (1 - share) + 4:.0f}" text-anchor="end">{share:.0%}</text>'
            for share in (0.0, 0.5, 1.0)
        )
        + f'<text x="{_LEFT}" y="{_TOP - 8}">GPUs in use</text>'
    )


def _strips_svg(drawn: Figure) -> list[str]:
    top = _TOP + _CURVE + 50
    parts = [f'<text x="{_LEFT}" y="{top - 10}">Jobs (their GPUs), {escape(drawn.note)}; grey: waiting</text>']
    for place, strip in enumerate(drawn.strips):
        y = top + _ROW * place
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{escape(strip.label)}</text>')
        parts.append(_bar(drawn, strip.waited, y + 5, 4, _WAITING))
        parts += [_bar(drawn, ran, y + 2, _ROW - 4, strip.colour) for ran in strip.ran]
    return parts


def _bar(drawn: Figure, period: tuple[float, float], y: float, height: float, colour: str) -> str:
    scale = _WIDTH / drawn.end_s if drawn.end_s else 0.0
    x, width = _LEFT + period[0] * scale, max(0.5, (period[1] - period[0]) * scale)
    said = f"{period[0]:,.1f} s to {period[1]:,.1f} s"
    return (
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{height}" fill="{colour}"><title>{said}</title></rect>'
    )


def _axis_svg(drawn: Figure, y: float) -> list[str]:
    return [
        f'<text x="{_LEFT + _WIDTH * part / 4:.0f}" y="{y}" text-anchor="middle">{drawn.end_s * part / 4:,.0f} s</text>'
        for part in range(5)
    ]


def _legend_svg(drawn: Figure) -> list[str]:
    return [
        f'<rect x="{_LEFT + 90 * place}" y="28" width="10" height="10" fill="{colour}"/>'
        f'<text x="{_LEFT + 90 * place + 14}" y="37">{escape(tenant[:12])}</text>'
        for place, (tenant, colour) in enumerate(drawn.tenants[: len(COLOURS)])
    ]


def _write_png(drawn: Figure, path: Path) -> None:
    import warnings

    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture
    from matplotlib.patches import Patch

    picture = Picture(figsize=(12, 3 + 0.2 * len(drawn.strips)), layout="constrained")
    FigureCanvasAgg(picture)
    heights = [1.5, max(1.0, 0.2 * len(drawn.strips))]
    above, below = picture.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": heights})
    above.set_title(drawn.title, parse_math=False)
    above.stairs(drawn.utilisation, _edges(drawn), fill=True, alpha=0.6)
    above.set_ylim(0, 1.02)
    above.set_ylabel("GPUs in use")
    for row, strip in enumerate(drawn.strips):
        below.broken_barh([(strip.waited[0], strip.waited[1] - strip.waited[0])], (row - 0.12, 0.24), color=_WAITING)
        below.broken_barh([(start, end - start) for start, end in strip.ran], (row - 0.4, 0.8), color=strip.colour)
    below.set_yticks(range(len(drawn.strips)), [strip.label for strip in drawn.strips], fontsize=7, parse_math=False)
    below.invert_yaxis()
    if len(drawn.tenants) > 1:
        shown = drawn.tenants[: len(COLOURS)]
        for text in below.legend([Patch(color=colour) for _, colour in shown], [name for name, _ in shown]).get_texts():
            text.set_parse_math(False)
    below.set_xlabel(f"seconds; {drawn.note}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script that the font lacks is drawn as boxes
        picture.savefig(path, format="png", dpi=120)


def _edges(drawn: Figure) -> Sequence[float]:
    count = len(drawn.utilisation)
    return [drawn.end_s * place / max(1, count) for place in range(count + 1)]


def need_matplotlib() -> None:
    """Raise `PlotsMissing` when there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotsMissing(
            "Pictures need matplotlib, which is not installed.",
            next_action="Install it (pip install 'skyloom[plot]'), or name the file .html, which needs nothing.",
        ) from error


def _short(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"
