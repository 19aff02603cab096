"""Decisions about datasets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.errors import Category, ErrorBody, InvalidInput
from skyloom.rooms.data import rules
from skyloom.rooms.data.contents import Column, ColumnRole
from skyloom.rooms.data.making import Clean, ColumnType, DropMissing, Format, Ingest, Normalise, SourceFile, Split
from skyloom.rooms.data.model import DatasetState, Draft, DraftState

DIGEST = "sha256:" + "0" * 64
MAKING = Ingest(sources=(SourceFile(path="a.csv", digest=DIGEST),), format=Format.CSV)
ERROR = ErrorBody(code="x", category=Category.INVALID, message="m", next_action="n")


def draft(**facts: object) -> Draft:
    fields = {"dataset_id": "d", "parent": None, "making": MAKING, "job_id": "j", "created_at": 0.0, "created_by": "a"}
    return Draft(id="draft_1", project="p", **{**fields, **facts})  # type: ignore[arg-type]


def column(name: str, kind: ColumnType = ColumnType.INTEGER, **facts: object) -> Column:
    return Column(name=name, type=kind, arrow_type="int64", **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "job_ended", "state"),
    [
        ({}, None, DraftState.WORKING),
        ({}, "exit code 1", DraftState.FAILED),
        ({"error": ERROR}, None, DraftState.FAILED),
        ({"error": ERROR, "number": 1}, "exit code 1", DraftState.DONE),
        ({"number": 1}, "lost", DraftState.DONE),
    ],
)
def test_draft_state_follows_from_version_error_and_job(
    facts: dict[str, object], job_ended: str | None, state: DraftState
) -> None:
    status = rules.draft_status(draft(**facts), job_ended)
    assert status.state is state
    assert (status.error is not None) == (state is DraftState.FAILED)


def test_draft_of_a_dead_job_says_what_the_job_says() -> None:
    status = rules.draft_status(draft(), "used 3 GiB of 2 GiB")
    assert status.error
    assert "used 3 GiB of 2 GiB" in status.error.message
    assert status.error.next_action == "See: skyloom why j."


@pytest.mark.parametrize(
    ("num_versions", "drafts", "state"),
    [
        (0, [None], DatasetState.CREATING),
        (0, ["dead"], DatasetState.FAILED),
        (0, ["dead", None], DatasetState.CREATING),
        (1, ["dead"], DatasetState.READY),
    ],
)
def test_dataset_state_follows_from_versions_and_drafts(
    num_versions: int, drafts: list[str | None], state: DatasetState
) -> None:
    assert rules.dataset_state(num_versions, [rules.draft_status(draft(), ended) for ended in drafts]) is state


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        (["a.csv", "b.tsv"], Format.CSV),
        (["a.PARQUET"], Format.PARQUET),
        (["a.ndjson"], Format.JSONL),
        (["a.png", "b.jpg", "labels.csv"], Format.IMAGES),
        (["a.tar"], Format.IMAGES),
    ],
)
def test_format_of_names_is_told_by_their_endings(paths: list[str], kind: Format) -> None:
    assert rules.format_of(paths) is kind


@pytest.mark.parametrize("paths", [["a"], ["a.csv", "b.parquet"], ["a.csv", "b.bin"], []])
def test_format_of_names_that_say_nothing_is_refused(paths: list[str]) -> None:
    with pytest.raises(rules.UnknownFormat):
        rules.format_of(paths)


@pytest.mark.parametrize(
    ("name", "kind", "num_distinct", "role"),
    [
        ("label", ColumnType.TEXT, 2, ColumnRole.LABEL),
        ("Species", ColumnType.TEXT, 3, ColumnRole.LABEL),
        ("user_id", ColumnType.INTEGER, 100, ColumnRole.IDENTIFIER),
        ("user_id", ColumnType.INTEGER, 5, ColumnRole.FEATURE),
        ("split", ColumnType.TEXT, 2, ColumnRole.SPLIT),
        ("age", ColumnType.INTEGER, 100, ColumnRole.FEATURE),
    ],
)
def test_role_is_guessed_from_name_and_content(
    name: str, kind: ColumnType, num_distinct: int, role: ColumnRole
) -> None:
    assert rules.role(name, kind, num_distinct, 100) is role


def test_check_names_unknown_columns_and_shows_the_known() -> None:
    with pytest.raises(InvalidInput, match="no column 'b', 'c'") as caught:
        rules.check(Clean(steps=(DropMissing(columns=("a", "b")), Normalise(columns=("c",)))), [column("a")])
    assert "a" in caught.value.next_action


def test_check_shares_must_add_up() -> None:
    rules.check(Split(train=0.7, validation=0.1, test=0.2), [column("a")])
    with pytest.raises(InvalidInput, match=r"add up to 0\.9"):
        rules.check(Split(train=0.7, validation=0.0, test=0.2), [column("a")])


@given(
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5_000) | st.binary() | st.dates()
)
def test_cell_is_always_small_json(value: object) -> None:
    shown = rules.cell(value)
    assert shown is None or isinstance(shown, bool | int | float | str)
    assert not isinstance(shown, float) or math.isfinite(shown)
    assert not isinstance(shown, str) or len(shown) <= 1_001


def test_rows_shown_are_few_when_they_are_bulky() -> None:
    assert rules.rows_shown([column("n")], 1_000) == 1_000
    image = column("image", ColumnType.IMAGE, shape=(3, 512, 512))
    assert rules.rows_shown([image], 1_000) == 42
    assert rules.rows_shown([column("image", ColumnType.ENCODED_IMAGE)], 1_000) == 20
