"""The service of lineage: reads one snapshot, walks it, then looks at rows. Bulk reads happen outside of the snapshot."""

from collections.abc import Iterator

from skyloom.core.operation import Caller
from skyloom.ports.door import Handlers, Query
from skyloom.ports.store import Snapshot, Store
from skyloom.ports.tables import ROW_ID, Tables
from skyloom.rooms.data.making import SPLIT_COLUMN
from skyloom.rooms.lineage import model, rules
from skyloom.rooms.lineage.model import Lineage, LineageNode
from skyloom.rooms.lineage.ports import Held, Sources
from skyloom.rooms.registry.model import ModelVersion

_PREDICTION = "pred_"
_DATASET = "dataset"
_DEEPEST = 20  # predictions of predictions of …


class Lineages:
    """Walks back and forward, in all projects."""

    def __init__(self, store: Store, tables: Tables, sources: Sources) -> None:
        self._store = store
        self._tables = tables
        self._sources = sources

    def handlers(self) -> Handlers:
        return {model.GetLineage: Query(self.get), model.GetRowLineage: Query(self.row)}

    # Back

    def get(self, ask: model.GetLineage, by: Caller) -> Lineage:
        nodes: list[LineageNode] = []
        subject = ask.subject_id
        if subject.startswith(_PREDICTION):
            away = self._sources.on_device(subject, by.project)
            if away is not None:
                nodes += rules.of_device_prediction(away)
                subject = away.version
            else:
                found = self._sources.prediction(subject, by)
                nodes.append(rules.of_prediction(found.prediction))
                subject = found.revision.id
                if found.prediction.version:  # a guest of the endpoint's pack made it
                    nodes.append(rules.of_revision(found.endpoint, found.revision))
                    subject = found.prediction.version
        kind, _, named = subject.partition(":")
        if kind == _DATASET and named:
            return Lineage(subject=self._store.read(lambda view: self._of_dataset(view, named, by.project)))
        path, version, held = self._store.read(lambda view: self._path(view, subject, by.project))
        if not nodes and not path:
            raise model.SubjectUnknown(
                f"Nothing that has a lineage is called {ask.subject_id}.",
                next_action="Give the id of a prediction, an endpoint, a revision, a model version or a run; or dataset:NAME.",
            )
        rows = self._rows_used(held, version, ask) if held else None
        return Lineage(subject=rules.chain([*nodes, *path]), rows=rows)

    def _path(
        self, view: Snapshot, subject: str, project: str
    ) -> tuple[list[LineageNode], ModelVersion | None, Held | None]:
        """From a revision, a model version or a run to the data, with what the rows are looked up by."""
        path = []
        served = self._sources.served(view, subject, project)
        if served is not None:
            path.append(rules.of_revision(*served))
            subject = served[1].model_version
        version = self._sources.model_version(view, subject, project)
        if version is not None:
            path.append(rules.of_model_version(version))
        run = self._sources.run(view, version.run_id if version else subject, project)
        if run is not None:
            mounted = self._sources.mounted(view, run.job_id, project)
            path.append(rules.with_facts(rules.of_run(run, version), {"mounts": ", ".join(mounted)} if mounted else {}))
            registered = () if version else self._sources.registered(view, run.id, project)
            version = version or next(iter(registered), None)
        origin = run or (version.provenance if version else None)
        if origin is None or not origin.dataset:
            return path, version, None
        line = rules.line_of(self._sources.held(view, origin.dataset, project), origin.dataset_version)
        return [*path, *map(rules.of_held, line)], version, line[0] if line else None

    def _of_dataset(self, view: Snapshot, named: str, project: str) -> LineageNode:
        """A dataset version with what it was made from. ``named`` is ``name`` (its newest) or ``name:number``."""
        name, _, number = named.partition(":")
        versions = self._sources.held(view, name, project)
        wanted = int(number) if number.isdecimal() else versions[-1].number if versions and not number else -1
        if wanted not in [held.number for held in versions]:
            raise model.SubjectUnknown(
                f"There is no dataset version {named!r}.", next_action="List yours: skyloom data list."
            )
        return self._made_of(view, name, wanted, project, _DEEPEST)

    def _made_of(self, view: Snapshot, name: str, number: int, project: str, depth: int) -> LineageNode:
        line = rules.line_of(self._sources.held(view, name, project), number)
        nodes = [rules.of_held(held) for held in line]
        told = line[-1].predicted if line else None
        if told is None or not depth:
            return rules.chain(nodes)
        path = self._path(view, f"{told.model}:{told.model_version}", project)[0]
        rows = self._made_of(view, told.dataset, told.version, project, depth - 1)
        return rules.chain([*nodes[:-1], rules.leading_to(nodes[-1], [*([rules.chain(path)] if path else []), rows])])

    def _rows_used(self, held: Held, version: ModelVersion | None, ask: model.GetLineage) -> model.RowsUsed:
        split = ask.split or rules.fitted_split(version)
        recorded = version.provenance.splits.get(split) if version else None
        row_ids = self._row_ids(held, split)
        return rules.rows_used(held.dataset, held.number, split, row_ids, recorded, after=ask.after, limit=ask.limit)

    def _row_ids(self, held: Held, split: str) -> Iterator[int]:
        if SPLIT_COLUMN not in self._tables.schema(held.table, held.table_number).names:
            return
        where = rules.condition(split)
        for batch in self._tables.scan(
            held.table, held.table_number, columns=[SPLIT_COLUMN], where=where, with_row_ids=True, batch_rows=65_536
        ):
            yield from batch.column(ROW_ID).to_pylist()

    # Forward

    def row(self, ask: model.GetRowLineage, by: Caller) -> LineageNode:
        versions = self._store.read(lambda view: self._sources.held(view, ask.dataset, by.project))
        holding = [(held, split) for held in reversed(versions) for split in self._split_of(held, ask.row_id)]
        if not holding:
            raise model.RowMissing(
                f"No version of the dataset {ask.dataset!r} holds row {ask.row_id}.",
                next_action=f"Look at its rows and their ids: skyloom data head {ask.dataset}.",
            )

        def work(view: Snapshot) -> LineageNode:
            found = [self._version_forward(view, held, split, by.project) for held, split in holding]
            return rules.leading_to(rules.of_row(ask.dataset, ask.row_id), found)

        return self._store.read(work)

    def _split_of(self, held: Held, row_id: int) -> list[str | None]:
        """The split that a version has the row in, in a list; an empty one when it does not hold the row."""
        has_split = SPLIT_COLUMN in self._tables.schema(held.table, held.table_number).names
        columns = [SPLIT_COLUMN] if has_split else []
        found = self._tables.take(held.table, held.table_number, [row_id], columns=columns)
        if not found.num_rows:
            return []
        return list(found.column(SPLIT_COLUMN).to_pylist()) if has_split else [None]

    def _version_forward(self, view: Snapshot, held: Held, split: str | None, project: str) -> LineageNode:
        node = rules.of_held(held, split)
        runs = self._sources.trained_on(view, held.dataset, held.number, project)
        found = (self._run_forward(view, run.id, split, project) for run in runs)
        return rules.leading_to(node, [run for run in found if run is not None])

    def _run_forward(self, view: Snapshot, run_id: str, split: str | None, project: str) -> LineageNode | None:
        """A run with the models it made that used the row; None when it made models and none of them did."""
        run = self._sources.run(view, run_id, project)
        if run is None:
            return None
        versions = self._sources.registered(view, run_id, project)
        used = [(version, use) for version in versions if (use := rules.use_of(version, split))]
        if versions and not used:
            return None
        models = [self._model_forward(view, version, use, project) for version, use in used]
        return rules.leading_to(rules.of_run(run), models)

    def _model_forward(self, view: Snapshot, version: ModelVersion, use: str, project: str) -> LineageNode:
        node = rules.with_facts(rules.of_model_version(version), {"this row": use})
        serving = self._sources.serving(view, version.id, project)
        return rules.leading_to(node, [rules.of_revision(*served) for served in serving])
