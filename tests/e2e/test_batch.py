"""A dataset and a model become predictions on a real control plane, and lineage knows of both."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from skyloom.core.errors import NotFound
from skyloom.core.resources import Resources
from skyloom.rooms.batch import rules
from skyloom.rooms.batch.model import BatchOrder, NotABatchTask, NotPredictable
from skyloom.rooms.data.making import Predict
from skyloom.rooms.data.model import DatasetExists
from skyloom.rooms.registry.bundle import Manifest
from tests.control_plane import ControlPlane
from tests.e2e.test_serving import register
from tests.inference.serving import oracle, toy_rows, write_bundle

pytestmark = pytest.mark.slow
SMALL = Resources(cpus=1, memory_bytes=2 * 2**30)


def test_rows_become_predictions_with_a_lineage_now_and_by_the_clock(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
    told = msgspec.structs.replace(manifest, columns=tuple("abcd"), labels=("red", "green", "blue"))
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(told))
    rows = toy_rows(50)
    lines = [",".join(map(repr, map(float, row))) for row in rows]
    lines[9] = "," + lines[9].partition(",")[2]  # no value for a
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,c,d", *lines]) + "\n")
    with control_plane.client(patience_s=30) as cloud:
        register(cloud, bundle)
        cloud.data.finish(cloud.data.create("rows", tmp_path / "rows.csv"), timeout_s=60)
        made = cloud.predictions.finish(cloud.predictions.run("rows", "toy", "said", resources=SMALL), timeout_s=60)
        assert made.making == Predict(
            dataset="rows", version=1, model="toy", model_version=1, columns={name: name for name in "abcd"}
        )
        assert (made.contents.num_rows, made.contents.num_rejects, made.contents.reports[0].rows_in) == (49, 1, 50)
        shown = cloud.data.head("said", limit=50)
        labels = [row[shown.columns.index("prediction")] for row in shown.rows]
        ids = [row[shown.columns.index("source_row_id")] for row in shown.rows]
        assert ids == [place for place in range(50) if place != 9]
        names = np.array(told.labels)[oracle(bundle, rows[ids]).argmax(axis=1)]  # type: ignore[index]
        assert labels == names.tolist()
        tree = cloud.lineage.get("dataset:said").subject
        assert [node.name for node in tree.next] == ["toy version 1", "rows version 1"]
        assert "toy version 1" in cloud.overview.why(made.dataset_id).message
        # What a slot of a schedule begins: the same job, with references that mean something only then.
        order = BatchOrder(dataset="rows", model="toy", to="said")
        job = cloud.jobs.wait(cloud.jobs.submit(rules.job(order, SMALL)).job.id, timeout_s=60)
        assert job.state.value == "succeeded", job.message
        assert cloud.data.get("said").num_versions == 2
        scheduled = cloud.predictions.schedule("nightly", "@daily", "rows", "toy", "said")
        assert scheduled.schedule.spec.entry == rules.job(order, SMALL).entry
        with pytest.raises(NotPredictable, match="'nope'"):
            cloud.predictions.run("rows", "toy", "other", columns={"a": "nope"})
        with pytest.raises(NotPredictable, match="cannot be a version of it"):
            cloud.predictions.run("rows", "toy", "rows")
        with pytest.raises(DatasetExists, match="holds no predictions"):
            cloud.data.finish(cloud.data.create("plain", tmp_path / "rows.csv"), timeout_s=60)
            cloud.predictions.run("rows", "toy", "plain")
        with pytest.raises(NotFound):
            cloud.predictions.run("rows", "toy", "other", version="7")
        with pytest.raises(NotABatchTask):
            cloud.predictions.begin(order)
