"""What of datasets a person wants to see: their versions, columns, what cleaning lost, and some rows."""

from collections.abc import Iterable, Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.wording import human, safe
from skyloom.rooms.data.contents import Column as DataColumn
from skyloom.rooms.data.contents import Loss, StepReport
from skyloom.rooms.data.model import DatasetStatus, DatasetVersion, DraftStatus, Excerpt


def cells(excerpt: Excerpt) -> Sequence[Column]:
    """The columns of some rows of a dataset."""

    def column(place: int, name: str) -> Column:
        return Column(safe(name), lambda row: human("", row[place]))

    return [column(place, name) for place, name in enumerate(excerpt.columns)]


def _lost(loss: Loss) -> str:
    """Why rows were lost, and where the first of them are."""
    lines = [str(example.line) for example in loss.examples if example.line is not None]
    ids = [str(example.row_id) for example in loss.examples if example.row_id is not None]
    where = f", line {', '.join(lines[:3])}" if lines else f", row {', '.join(ids[:3])}" if ids else ""
    return f"{loss.num_rows}: {loss.reason}{where}"


def _some(texts: Iterable[str], count: int = 4) -> str:
    shown = list(texts)
    return safe("; ".join(shown[:count])) + (f"; {len(shown) - count} more" if len(shown) > count else "")


DATA_COLUMNS: Mapping[type, Sequence[Column]] = {
    DatasetStatus: (
        of("dataset.name", "dataset"),
        of("state"),
        of("num_versions", "versions"),
        of("newest.contents.num_rows", "rows"),
        of("newest.tags", "tags"),
        of("dataset.created_at"),
    ),
    DatasetVersion: (
        of("number", "version"),
        of("parent", "from"),
        Column("made by", lambda version: type(version.making).__name__.lower(), "making"),
        of("contents.num_rows", "rows"),
        Column("columns", lambda version: human("", len(version.contents.columns))),
        of("contents.num_rejects", "rejected"),
        of("tags"),
        of("created_at"),
        of("job_id", "job"),
    ),
    DraftStatus: (
        of("draft.id", "draft"),
        Column("makes", lambda status: type(status.draft.making).__name__.lower(), "draft.making"),
        of("state"),
        of("error.message"),
        of("error.next_action", "next"),
        of("draft.job_id", "job"),
    ),
    DataColumn: (
        of("name", "column"),
        of("type"),
        of("shape"),
        of("nullable"),
        of("role"),
        of("num_missing", "missing"),
        of("num_distinct", "distinct"),
        of("minimum", "min"),
        of("maximum", "max"),
        of("mean"),
        of("deviation"),
        Column("most frequent", lambda column: _some(f"{value} ({count})" for value, count in column.top.items())),
    ),
    StepReport: (
        of("step"),
        of("rows_in"),
        of("rows_out"),
        Column("lost", lambda report: _some(_lost(loss) for loss in report.losses)),
        Column("changed", lambda report: _some(f"{name} ({count})" for name, count in report.num_changed.items())),
        Column("notes", lambda report: _some(report.notes)),
    ),
}
DATA_PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    DatasetStatus: (
        (
            of("dataset.name"),
            of("dataset.id", "dataset"),
            of("state"),
            of("dataset.description"),
            of("dataset.created_at"),
            of("num_versions", "versions"),
            of("newest.number", "newest"),
            of("newest.contents.num_rows", "rows"),
            of("newest.contents.num_rejects", "rejected"),
            of("newest.tags", "tags"),
        ),
        ("drafts", "newest.contents.columns", "newest.contents.reports", "newest.contents.scalings"),
    ),
    DatasetVersion: (
        (
            of("number", "version"),
            of("parent", "made from version"),
            Column("made by", lambda version: type(version.making).__name__.lower(), "making"),
            of("contents.num_rows", "rows"),
            of("contents.num_rejects", "rejected"),
            of("contents.rejects", "rejected rows"),
            of("contents.digest"),
            of("tags"),
            of("created_at"),
            of("job_id", "job"),
        ),
        ("contents.columns", "contents.reports", "contents.scalings"),
    ),
    DraftStatus: (
        (
            of("draft.id", "draft"),
            Column("makes", lambda status: type(status.draft.making).__name__.lower(), "draft.making"),
            of("state"),
            of("error.message"),
            of("error.next_action", "next"),
            of("draft.dataset_id", "dataset"),
            of("draft.job_id", "job"),
        ),
        (),
    ),
}
