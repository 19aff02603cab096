"""Samples of devices become rows of a dataset, each once: the change that begins the dataset marks what went into it.

One row for each row of a prediction's inputs, with the prediction's id, so that any row leads back to the device and the model
version that answered it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from skyloom.core.labels import matches
from skyloom.core.operation import Caller
from skyloom.ports.blobs import Blobs
from skyloom.ports.door import Change, Handlers
from skyloom.ports.lookup import named
from skyloom.ports.store import Snapshot, Store, Transaction, Where, changed
from skyloom.rooms.data.making import Format, Ingest, SourceFile
from skyloom.rooms.data.model import CreateDataset, DatasetState
from skyloom.rooms.data.ports import DATASETS
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.devices import model
from skyloom.rooms.devices.messages import Sampled
from skyloom.rooms.devices.model import DeviceChunk, GatheredSamples, GatherSamples, SampleBatch
from skyloom.rooms.devices.ports import DEVICE_RUNS, DEVICES, SAMPLE_BATCHES, SAMPLE_CHUNKS
from skyloom.rooms.registry.bundle import Datatype, Manifest
from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.registry.ports import VERSIONS
from skyloom.rooms.serving.predictions import name_prediction

_MAX_CHUNKS, _MAX_BYTES, _MAX_COLUMNS = 1_000, 64 * 2**20, 1_000
_SOURCE = "samples.jsonl"
_OWN_COLUMNS = ("prediction_id", "device", "at")


class SampledTensor(msgspec.Struct, frozen=True):
    """One input of a sample. ``data`` may be nested."""

    name: str
    shape: tuple[int, ...]
    data: list[Any]


class Gathering:
    """Makes datasets of what devices sampled, for all projects."""

    def __init__(self, store: Store, blobs: Blobs, data: Datasets) -> None:
        self._store = store
        self._blobs = blobs
        self._data = data

    def handlers(self) -> Handlers:
        return {GatherSamples: Change(self.gather, before=self.prepare)}

    def prepare(self, ask: GatherSamples, by: Caller) -> None:
        """Write the rows into a blob, and down what went into them. Raises `NothingSampled`."""
        chunks, more = self._store.read(lambda view: self._waiting(view, ask, by))
        lines, num_rows, unreadable = self._store.read(lambda view: _lines(view, chunks))
        if not num_rows:
            raise model.NothingSampled(
                f"No device has brought samples for {ask.model} that are in no dataset yet.",
                next_action="Let devices sample: skyloom edge run --sample 0.01; see: skyloom device samples NAME.",
            )
        digest, _ = self._blobs.put(lines)
        self._data.check_create(_creation(ask.dataset, digest), by)
        batch = SampleBatch(
            id=f"{by.project}/{ask.dataset}",
            project=by.project,
            model=ask.model,
            labels=ask.labels,
            digest=digest,
            chunks=tuple(chunk.id for chunk in chunks),
            num_rows=num_rows,
            unreadable=unreadable,
            more=more,
        )

        def keep(tx: Transaction) -> None:
            tx.delete(SAMPLE_BATCHES, batch.id)
            tx.insert(SAMPLE_BATCHES, batch)

        self._store.write(keep)

    def gather(self, tx: Transaction, ask: GatherSamples, by: Caller) -> GatheredSamples:
        batch = tx.get(SAMPLE_BATCHES, f"{by.project}/{ask.dataset}")
        free = ("", *self._failed(tx, ask.dataset, by))
        chunks = [tx.get(SAMPLE_CHUNKS, identifier) for identifier in batch.chunks] if batch else []
        taken = [chunk for chunk in chunks if chunk is not None and chunk.gathered in free]
        is_ours = batch is not None and (batch.model, batch.labels) == (
            ask.model,
            ask.labels,
        )  # or of who asked at once
        if batch is None or not is_ours or len(taken) < len(batch.chunks):
            raise model.SamplesMoved(
                "Some of these samples went into another dataset or were forgotten meanwhile.",
                next_action="Ask again: it takes those that are left.",
            )
        draft = self._data.create(tx, _creation(ask.dataset, batch.digest), by)
        for chunk in taken:
            tx.update(SAMPLE_CHUNKS, changed(chunk, {"gathered": draft.draft.id}))
        tx.delete(SAMPLE_BATCHES, batch.id)
        return GatheredSamples(draft=draft, num_rows=batch.num_rows, unreadable=batch.unreadable, more=batch.more)

    def _waiting(self, view: Snapshot, ask: GatherSamples, by: Caller) -> tuple[list[DeviceChunk], bool]:
        """Chunks of samples that are in no dataset, device by device, and whether there are more than can be taken at once."""
        free = ("", *self._failed(view, ask.dataset, by))
        found: list[DeviceChunk] = []
        size = 0
        for device in view.select(DEVICES, {"project": by.project}):
            if matches(device.labels, ask.labels):
                where: Where = {"device": device.id, "model": ask.model, "gathered": free}
                for chunk in view.select(SAMPLE_CHUNKS, where, order="received_at", limit=_MAX_CHUNKS - len(found) + 1):
                    size += len(chunk.lines)
                    if len(found) == _MAX_CHUNKS or size > _MAX_BYTES:
                        return found, True
                    found.append(chunk)
        return found, False

    def _failed(self, view: Snapshot, name: str, by: Caller) -> tuple[str, ...]:
        """Drafts of a dataset of that name of which nothing came: what was in them is free again."""
        dataset = named(view, DATASETS, name, by.project)
        if dataset is None:
            return ()
        status = self._data.status(view, dataset)
        return tuple(draft.draft.id for draft in status.drafts) if status.state is DatasetState.FAILED else ()


def _creation(name: str, digest: str) -> CreateDataset:
    making = Ingest(sources=(SourceFile(path=_SOURCE, digest=digest),), format=Format.JSONL)
    return CreateDataset(name=name, making=making, description="Inputs that devices sampled.")


def _version(view: Snapshot, chunk: DeviceChunk) -> ModelVersion | None:
    run = view.get(DEVICE_RUNS, chunk.run)
    return view.get(VERSIONS, run.model_version) if run else None


def _lines(view: Snapshot, chunks: Sequence[DeviceChunk]) -> tuple[list[bytes], int, int]:
    """JSON lines, how many, and how many samples could not be read."""
    lines: list[bytes] = []
    unreadable = 0
    for chunk in chunks:
        version, device = _version(view, chunk), view.get(DEVICES, chunk.device)
        for sample in msgspec.json.decode(chunk.lines, type=list[Sampled]):
            told = {
                "prediction_id": name_prediction(sample.run, sample.nth),
                "device": device.name if device else chunk.device,
                "at": sample.at - chunk.skew_s,
            }
            try:
                rows = list(rows_of(sample.inputs, version.manifest)) if version else []
            except (ValueError, msgspec.MsgspecError, RecursionError):
                unreadable += 1
                continue
            lines += [msgspec.json.encode(row | told) + b"\n" for row in rows]
    return lines, len(lines), unreadable


def rows_of(inputs: str, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The rows of a sample's inputs, one column for each element: by the model's own names where it has as many.

    A device may say anything: what is not what the model takes raises ``ValueError``, ``MsgspecError`` or ``RecursionError``.
    """
    tensors = msgspec.json.decode(inputs, type=list[SampledTensor])
    specs = manifest.signature.inputs
    if [tensor.name for tensor in tensors] != [spec.name for spec in specs] or not tensors[0].shape[:1] > (0,):
        raise ValueError("they are not the model's inputs")
    num_rows, names, parts = tensors[0].shape[0], [], []
    for tensor, spec in zip(tensors, specs, strict=True):
        elements = list(_flat(tensor.data))
        fit = all(item is None or type(item) in _kinds(spec.datatype) for item in elements)
        if tensor.shape[:1] != (num_rows,) or not elements or len(elements) % num_rows or not fit:
            raise ValueError("its tensors have no common rows, or other values than they say")
        width = len(elements) // num_rows
        names += [tensor.name] if width == 1 else [f"{tensor.name}_{place}" for place in range(width)]
        parts.append([elements[start : start + width] for start in range(0, len(elements), width)])
    if len(set(names)) != len(names) or len(names) > _MAX_COLUMNS:
        raise ValueError("it has too many elements a row, or two of a name")
    named = [_free(name) for name in (manifest.columns if len(manifest.columns) == len(names) else names)]
    for row in zip(*parts, strict=True):
        yield dict(zip(named, (element for part in row for element in part), strict=True))


def _free(name: str) -> str:
    """The name of a model's column, where it is none of those that every row has."""
    return f"{name}_input" if name in _OWN_COLUMNS else name


def _kinds(datatype: Datatype) -> tuple[type, ...]:
    return {Datatype.BOOL: (bool,), Datatype.BYTES: (str,)}.get(datatype, (int, float))


def _flat(data: list[Any]) -> Iterator[Any]:
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            yield item
        else:
            stack.pop()
