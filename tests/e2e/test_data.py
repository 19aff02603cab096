"""Datasets on a real control plane: from files here to versions there, through jobs."""

from pathlib import Path

import pytest

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.rooms.data.making import Deduplicate, Filling, FillMissing, Normalise
from skyloom.rooms.data.model import DatasetExists, DatasetState, DraftState
from skyloom.tables.lance import LanceTables
from tests.control_plane import ControlPlane

CSV = "age,city\n30,Oslo\n,Rome\n30,Oslo\nbroken\n50,Rome\n"


def test_dataset_is_created_cleaned_split_tagged_and_read(control_plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(CSV)
    with control_plane.client(patience_s=30) as cloud:
        first = cloud.data.finish(cloud.data.create("people", tmp_path / "people.csv"), timeout_s=60)
        assert (first.number, first.contents.num_rows, first.contents.num_rejects) == (1, 4, 1)
        assert first.contents.reports[0].losses[0].examples[0].line == 5
        assert first.contents.rejects
        assert b"".join(cloud.transport.download(first.contents.rejects)).count(b"\n") == 1
        steps = (Deduplicate(), FillMissing(method=Filling.MEAN), Normalise())
        second = cloud.data.finish(cloud.data.clean("people", *steps), timeout_s=60)
        assert (second.number, second.parent, second.contents.num_rows) == (2, 1, 3)
        third = cloud.data.finish(cloud.data.split("people", train=0.5, test=0.5, seed=2), timeout_s=60)
        assert third.contents.scalings == second.contents.scalings
        cloud.data.tag("people", 2, "clean")
        cloud.data.tag("people", 3, "clean")
        status = cloud.data.get("people")
        assert (status.state, status.num_versions, status.newest and status.newest.tags) == (
            DatasetState.READY,
            3,
            ("clean",),
        )
        assert [version.number for version in cloud.data.versions("people").items] == [3, 2, 1]
        assert cloud.data.version("people", "clean").number == 3
        rows = cloud.data.head("people", "1", limit=2)
        assert (rows.columns, rows.rows) == (("_rowid", "age", "city"), ((0, 30, "Oslo"), (1, None, "Rome")))
        tables = LanceTables(control_plane.home / "tables")
        assert tables.tags(status.table) == {"clean": 3}
        assert [
            row for batch in tables.scan(status.table, 3, with_row_ids=True) for row in batch["_rowid"].to_pylist()
        ] == [
            0,
            1,
            3,
        ]
        with pytest.raises(DatasetExists):
            cloud.data.create("people", tmp_path / "people.csv")
        with pytest.raises(InvalidInput, match="no column 'nope'"):
            cloud.data.clean("people", Deduplicate(columns=("nope",)))
        with pytest.raises(NotFound):
            cloud.data.head("people", "9")


def test_dataset_of_bad_files_fails_with_one_clear_error_and_may_be_created_again(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures" / "cat"
    pictures.mkdir(parents=True)
    (pictures / "notes.png").write_text("no image")
    with control_plane.client(patience_s=30) as cloud:
        draft = cloud.data.create("pets", tmp_path / "pictures")
        with pytest.raises(InvalidInput, match=r"cat/notes\.png \(no PNG or JPEG image\)"):
            cloud.data.finish(draft, timeout_s=60)
        status = cloud.data.get("pets")
        assert (status.state, status.drafts[0].state) == (DatasetState.FAILED, DraftState.FAILED)
        assert cloud.data.finish(cloud.data.create("pets", *_csv(tmp_path)), timeout_s=60).number == 1
        assert cloud.data.get("pets").state is DatasetState.READY


def _csv(folder: Path) -> tuple[Path, ...]:
    path = folder / "pets.csv"
    path.write_text("name\nTom\n")
    return (path,)
