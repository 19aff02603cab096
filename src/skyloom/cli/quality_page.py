"""How good an endpoint's answers are, as one web page to look at: over time, by class, by confidence. Needs no other file."""

from html import escape
from pathlib import Path

from skyloom.cli.wording import human, moment
from skyloom.core.errors import InvalidInput
from skyloom.durable import disk_errors
from skyloom.rooms.serving.judging import ConfusionRow, QualityReport, RevisionQuality

_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#ff9da7")
_WIDTH, _HEIGHT, _LEFT, _TOP = 900, 220, 60, 20
_SIDE = 220
_MAX_CLASSES = 20


class PageRefused(InvalidInput):
    """The page cannot be written into that file."""


def check_page(path: Path) -> None:
    """Raise `PageRefused` before anything is asked."""
    if path.suffix != ".html" or path.is_dir() or not path.absolute().parent.is_dir():
        raise PageRefused(f"{path} is no .html file in an existing folder.", next_action="Name it so: quality.html.")


def write_page(report: QualityReport, path: Path) -> None:
    """Raises `PageRefused`, `StorageFull`, `NotPermitted`."""
    check_page(path)
    with disk_errors(path):
        path.write_text(page(report), encoding="utf-8")


def page(report: QualityReport) -> str:
    """The report as a web page without scripts; names are text in it, whatever they hold."""
    title = escape(f"Quality of {report.endpoint_name}")
    parts = [f"<p>{escape(report.message)}</p>"] if report.message else [_over_time(report), _table(report)]
    parts += [_revision(line) for line in report.revisions]
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px system-ui;margin:2em;max-width:62em}}td,th{{text-align:right;padding:.1em .8em}}
text{{font-size:11px}}table{{border-collapse:collapse}}h2{{margin-top:2em}}</style>
<h1>{title}</h1>{"".join(parts)}</html>
"""


def _over_time(report: QualityReport) -> str:
    """Accuracy, or the mean error of a regression, of each revision; a dot is larger the more labels it has."""
    points = [point for line in report.revisions for point in line.points]
    is_class = any(point.right is not None for point in points)
    values = [point.right if is_class else point.mean_error for point in points]
    top = 1.0 if is_class else max((value for value in values if value is not None), default=0.0) or 1.0
    begin, end = min(point.at for point in points), max(point.at for point in points)
    most = max(point.labelled for point in points)
    drawn = [_frame(top, begin, end)]
    for place, line in enumerate(report.revisions):
        colour = _COLOURS[place % len(_COLOURS)]
        spots = []
        for point in line.points:
            value = point.right if is_class else point.mean_error
            if value is None:
                continue
            x = _LEFT + _WIDTH * ((point.at - begin) / (end - begin) if end > begin else 0.5)
            y = _TOP + _HEIGHT * (1 - value / top)
            spots.append(f"{x:.1f},{y:.1f}")
            told = f"revision {line.number}, {moment(point.at)}: {value:.4g} of {point.labelled:,} labels"
            radius = 2 + 3 * (point.labelled / most) ** 0.5
            drawn.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}"><title>{escape(told)}</title></circle>'
            )
        drawn.append(f'<polyline points="{" ".join(spots)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        drawn.append(f'<text x="{_LEFT + 10 + 110 * place}" y="12" fill="{colour}">revision {line.number}</text>')
    name = "Accuracy" if is_class else "Mean error"
    size = f'width="{_LEFT + _WIDTH + 20}" height="{_TOP + _HEIGHT + 30}"'
    return f'<h2>{name} over time</h2><svg {size} role="img" aria-label="{name} over time">{"".join(drawn)}</svg>'


def _frame(top: float, begin: float, end: float) -> str:
    marks = "".join(
        f'<text x="{_LEFT - 6}" y="{_TOP + _HEIGHT * (1 - share) + 4:.0f}" text-anchor="end">{top * share:.3g}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    times = f'<text x="{_LEFT}" y="{_TOP + _HEIGHT + 16}">{moment(begin)}</text>'
    times += f'<text x="{_LEFT + _WIDTH}" y="{_TOP + _HEIGHT + 16}" text-anchor="end">{moment(end)}</text>'
    return f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>{marks}{times}'


def _table(report: QualityReport) -> str:
    rows = "".join(
        f"<tr><td>{line.number}<td>{escape(line.version_label)}<td>{line.labelled:,}<td>{human('accuracy', line.accuracy)}"
        f"<td>{accuracy_interval(line)}<td>{human('mean_error', line.mean_error)}"
        f"<td>{human('calibration_error', line.calibration_error)}"
        for line in report.revisions
    )
    heads = "revision|model version|labels|accuracy|95% sure|mean error|calibration error".replace("|", "<th>")
    return f"<table><tr><th>{heads}</tr>{rows}</table>"


def accuracy_interval(line: RevisionQuality) -> str:
    """What holds the true accuracy with 95 %."""
    if line.accuracy_low is None or line.accuracy_high is None:
        return human("", None)
    return f"{human('accuracy', line.accuracy_low)} to {human('accuracy', line.accuracy_high)}"


def _revision(line: RevisionQuality) -> str:
    parts = []
    if line.confusion:
        parts.append(_confusion(line.confusion[:_MAX_CLASSES]))
    if line.calibration:
        parts.append(_calibration(line))
    return f"<h2>Revision {line.number}</h2>{''.join(parts)}" if parts else ""


def _confusion(rows: tuple[ConfusionRow, ...]) -> str:
    """Rows are what was true, columns what was said; the darker the more."""
    said = list(dict.fromkeys([*(row.actual for row in rows), *(name for row in rows for name in row.said)]))
    said = said[:_MAX_CLASSES]
    head = "".join(f"<th>{escape(name)}" for name in said)
    body = ""
    for row in rows:
        cells = ""
        for name in said:
            count = row.said.get(name, 0)
            shade = count / row.labelled if row.labelled else 0.0
            colour = "89,161,79" if name == row.actual else "225,87,89"
            cells += f'<td style="background:rgba({colour},{shade:.2f})">{count or ""}'
        body += f"<tr><th>{escape(row.actual)}{cells}</tr>"
    return f"<p>What was true (rows) and what was said (columns):</p><table><tr><th>{head}</tr>{body}</table>"


def _calibration(line: RevisionQuality) -> str:
    """How often answers are right, by confidence; on the line both are the same."""
    bars = ""
    for place, one in enumerate(line.calibration):
        if not one.labelled:
            continue
        height = _SIDE * one.right / one.labelled
        x, wide = _LEFT + _SIDE * place / len(line.calibration), _SIDE / len(line.calibration) - 2
        told = f"confidence {one.confidence / one.labelled:.2f}: {one.right:,} of {one.labelled:,} right"
        bars += (
            f'<rect x="{x:.1f}" y="{_TOP + _SIDE - height:.1f}" width="{wide:.1f}" height="{height:.1f}" fill="#4e79a7">'
            f"<title>{told}</title></rect>"
        )
    return (
        f'<p>Right by confidence:</p><svg width="{_LEFT + _SIDE + 20}" height="{_TOP + _SIDE + 25}" role="img" '
        f'aria-label="right by confidence"><rect x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#999"/>'
        f'{bars}<line x1="{_LEFT}" y1="{_TOP + _SIDE}" x2="{_LEFT + _SIDE}" y2="{_TOP}" stroke="#333" stroke-dasharray="4"/>'
        f'<text x="{_LEFT}" y="{_TOP + _SIDE + 16}">0</text><text x="{_LEFT + _SIDE}" y="{_TOP + _SIDE + 16}" '
        'text-anchor="end">confidence 1</text></svg>'
    )
