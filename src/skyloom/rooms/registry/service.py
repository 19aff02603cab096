"""The service of the registry: register, alias, find. It stores facts about bundles; their bytes are blobs."""

from collections.abc import Iterable

import msgspec

from skyloom.core.events import ModelRegistered
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Page
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.lookup import listed, named
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.registry import model, rules
from skyloom.rooms.registry.model import Model, ModelVersion
from skyloom.rooms.registry.ports import MODELS, VERSIONS
from skyloom.rooms.tracking.ports import RUNS

_SHOWN_VERSIONS = 100


class Registry:
    """Models of all projects."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, outbox: Outbox, blobs: Blobs) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._blobs = blobs

    def handlers(self) -> Handlers:
        return {
            model.RegisterModelVersion: Change(self.register, before=self.check),
            model.SetAlias: Change(self.set_alias),
            model.ListModels: Query(self.list),
            model.GetModel: Query(self.get),
            model.GetModelVersion: Query(self.get_version),
        }

    # Taking in

    def check(self, ask: model.RegisterModelVersion, by: Caller) -> None:
        """Refuse a bundle that could not be served: files that are not there, or a manifest that cannot be meant."""
        rules.check_manifest(ask.manifest)
        for file in ask.manifest.files:
            size_bytes = self._blobs.size(file.digest)
            if size_bytes != file.size_bytes:
                found = "was not uploaded" if size_bytes is None else f"has {size_bytes} bytes, not {file.size_bytes}"
                raise model.BundleIncomplete(
                    f"The file {file.path!r} of the bundle {found}.",
                    next_action="Upload the file that the manifest names, then register again.",
                )

    def register(self, tx: Transaction, ask: model.RegisterModelVersion, by: Caller) -> ModelVersion:
        ask = _placed(tx, ask, by)
        earlier = self._by_run(tx, ask, by)
        if earlier is not None:
            return earlier
        holder = named(tx, MODELS, ask.model, by.project) or self._make(tx, ask.model, by)
        holder = tx.update(MODELS, changed(holder, {"newest": holder.newest + 1}))
        made = tx.insert(
            VERSIONS,
            ModelVersion(
                id=self._ids.new("version"),
                project=by.project,
                model=holder.name,
                number=holder.newest,
                run_id=ask.provenance.run_id,
                manifest=ask.manifest,
                provenance=ask.provenance,
                evaluation=ask.evaluation,
                parity=ask.parity,
                created_at=self._clock.now(),
                description=ask.description,
            ),
        )
        self._outbox.publish(tx, by.project, made.id, ModelRegistered(model=made.model, number=made.number))
        return made

    def set_alias(self, tx: Transaction, ask: model.SetAlias, by: Caller) -> Model:
        holder = self.find(tx, ask.model, by.project)
        if ask.alias == model.NEWEST or ask.alias.isdecimal():
            raise model.AliasReserved(
                f"An alias cannot be called {ask.alias!r}: that means a version already.",
                next_action="Choose a word, for example champion.",
            )
        number = rules.number_of(holder, str(ask.number))
        return tx.update(MODELS, changed(holder, {"aliases": {**holder.aliases, ask.alias: number}}))

    def _by_run(self, tx: Transaction, ask: model.RegisterModelVersion, by: Caller) -> ModelVersion | None:
        """What the run registered under this name before, an earlier attempt of its job included."""
        run_id = ask.provenance.run_id
        if not run_id:
            return None
        earlier = tx.select(VERSIONS, {"project": by.project, "model": ask.model, "run_id": run_id})
        if earlier and not rules.is_same(earlier[0], ask):
            raise model.AlreadyRegistered(
                f"Run {run_id} has registered {ask.model} version {earlier[0].number} with other files.",
                next_action="Train in a new run, or register under another name.",
            )
        return earlier[0] if earlier else None

    def _make(self, tx: Transaction, name: str, by: Caller) -> Model:
        return tx.insert(
            MODELS, Model(id=self._ids.new("model"), project=by.project, name=name, created_at=self._clock.now())
        )

    # Looking

    def find(self, view: Snapshot, name: str, project: str) -> Model:
        """Return a model of a project. Raises `ModelMissing`."""
        holder = named(view, MODELS, name, project)
        if holder is None:
            raise model.ModelMissing(f"There is no model {name!r}.", next_action="List yours: skyloom model list.")
        return holder

    def version(self, view: Snapshot, name: str, reference: str, project: str) -> ModelVersion:
        """Return a version by number, alias or ``newest``. Raises `ModelMissing`, `ModelVersionMissing`."""
        number = rules.number_of(self.find(view, name, project), reference)
        return view.select(VERSIONS, {"project": project, "model": name, "number": number})[0]

    def list(self, ask: model.ListModels, by: Caller) -> Page[Model]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, MODELS, where, ask))

    def get(self, ask: model.GetModel, by: Caller) -> model.ModelStatus:
        def work(view: Snapshot) -> model.ModelStatus:
            holder = self.find(view, ask.model, by.project)
            where = {"project": by.project, "model": holder.name}
            versions = view.select(VERSIONS, where, order="number", newest_first=True, limit=_SHOWN_VERSIONS)
            return model.ModelStatus(model=holder, versions=tuple(versions))

        return self._store.read(work)

    def get_version(self, ask: model.GetModelVersion, by: Caller) -> ModelVersion:
        return self._store.read(lambda view: self.version(view, ask.model, ask.reference, by.project))


def _placed(view: Snapshot, ask: model.RegisterModelVersion, by: Caller) -> model.RegisterModelVersion:
    """A request with the job and run that it truly belongs to: a task's own, and for people none."""
    runs = view.select(RUNS, {"job_id": by.job_id}) if by.task_id else ()
    placed = {"job_id": by.job_id, "run_id": runs[0].id if runs else ""}
    return msgspec.structs.replace(ask, provenance=msgspec.structs.replace(ask.provenance, **placed))


def models_of_runs(view: Snapshot, project: str, runs: Iterable[str]) -> dict[str, str]:
    """Run id → name of the model that the newest version which came of it was registered under."""
    found = view.select(VERSIONS, {"project": project, "run_id": tuple(runs)})
    return {version.run_id: version.model for version in sorted(found, key=lambda version: version.created_at)}
