"""Datasets from Python: create from local files, clean, split, look."""

import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from skyloom.core.errors import ErrorBody, InvalidInput, rebuild
from skyloom.core.operation import Page
from skyloom.core.resources import Resources
from skyloom.rooms.data import model
from skyloom.rooms.data.contents import Contents
from skyloom.rooms.data.making import Clean, Format, Ingest, SourceFile, Split, Step
from skyloom.rooms.data.model import DatasetVersion, DraftState, DraftStatus
from skyloom.rooms.data.rules import format_of
from skyloom.sdk.files import LocalFileMissing, upload_file
from skyloom.sdk.jobs import JobCalls, JobNews
from skyloom.sdk.patience import patient_with_job
from skyloom.sdk.transport import Transport
from skyloom.sdk.waiting import say, wait_until

_PACKED = "images.tar"
_MAX_TEXT = 4_000


class NothingToUpload(InvalidInput):
    """A folder holds no file."""


class DataCalls:
    """``cloud.data``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        *paths: str | Path,
        format: Format | str | None = None,  # noqa: A002  (the plain word)
        description: str = "",
        resources: Resources = model.MAKING_RESOURCES,
        **options: Any,
    ) -> DraftStatus:
        """Upload files, or one folder of images, and start the job that makes a dataset of them.

        Args:
            paths: files of one format; or one folder, whose sub-folders are the labels of the images inside.
            format: what the files are; by default their names say it.
            options: fields of `Ingest`: ``delimiter``, ``types``, ``skip_bad``, ``labels``, ``image_height``, …
        """
        local = [Path(path) for path in paths]
        if len(local) == 1 and local[0].is_dir():
            kind = Format.IMAGES
            sources: tuple[SourceFile, ...] = (self._upload_folder(local[0]),)
        else:
            kind = Format(format) if format else format_of(path.name for path in local)
            digests = [upload_file(self._transport, path) for path in local]
            names = _names(local)
            sources = tuple(SourceFile(path=one, digest=digest) for one, digest in zip(names, digests, strict=True))
        making = Ingest(sources=sources, format=kind, **options)
        return self._transport.send(
            model.CreateDataset(name=name, making=making, description=description, resources=resources)
        )

    def clean(
        self, dataset: str, *steps: Step, base: str = model.NEWEST, resources: Resources = model.MAKING_RESOURCES
    ) -> DraftStatus:
        """Start the job that makes a cleaned version: the steps, one after the other."""
        making = Clean(steps=steps)
        return self._transport.send(model.CleanDataset(dataset=dataset, making=making, base=base, resources=resources))

    def split(
        self, dataset: str, *, base: str = model.NEWEST, resources: Resources = model.MAKING_RESOURCES, **shares: Any
    ) -> DraftStatus:
        """Start the job that divides a version. ``shares`` are fields of `Split`: ``train``, ``validation``, ``test``, ``seed``,
        ``stratify``."""
        return self._transport.send(
            model.SplitDataset(dataset=dataset, making=Split(**shares), base=base, resources=resources)
        )

    def finish(
        self, draft: DraftStatus | str, *, timeout_s: float | None = None, tell: Callable[[str], None] | None = say
    ) -> DatasetVersion:
        """Wait for a draft and return its version; through an outage of the cloud like ``cloud.jobs.wait``.

        Args:
            tell: is told what its job waits for, as by ``cloud.jobs.finish``: on stderr, by default.

        Raises why it failed, ``TimeoutError``.
        """
        begun = (self.draft(draft) if isinstance(draft, str) else draft).draft
        draft_id, transport = begun.id, patient_with_job(self._transport, begun.job_id, timeout_s)
        calls, jobs, news = DataCalls(transport), JobCalls(transport), JobNews(tell)

        def look() -> DraftStatus:
            status = calls.draft(draft_id)
            if status.state is DraftState.WORKING and news.is_due:
                news.of(jobs.get(begun.job_id))
            return status

        still = f"draft {draft_id} is still in the making"
        status = wait_until(lambda status: status.state is not DraftState.WORKING, look, timeout_s, lambda _: still)
        if status.error is not None:
            raise rebuild(status.error)
        return calls.version(status.draft.dataset_id, str(status.draft.number))

    def draft(self, draft_id: str) -> DraftStatus:
        """Show a version in the making."""
        return self._transport.send(model.GetDraft(draft_id=draft_id))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[model.DatasetStatus]:
        """List datasets, newest first."""
        return self._transport.send(model.ListDatasets(limit=limit, cursor=cursor))

    def get(self, dataset: str) -> model.DatasetStatus:
        """Show a dataset by name or id."""
        return self._transport.send(model.GetDataset(dataset=dataset))

    def versions(self, dataset: str, limit: int = 50, cursor: str | None = None) -> Page[DatasetVersion]:
        """List the versions of a dataset, newest first."""
        return self._transport.send(model.ListVersions(dataset=dataset, limit=limit, cursor=cursor))

    def version(self, dataset: str, reference: str = model.NEWEST) -> DatasetVersion:
        """Show one version: by its number, by a tag, or ``newest``."""
        return self._transport.send(model.GetVersion(dataset=dataset, reference=reference))

    def head(self, dataset: str, reference: str = model.NEWEST, *, limit: int = 20, offset: int = 0) -> model.Excerpt:
        """Show some rows of a version."""
        return self._transport.send(model.HeadRows(dataset=dataset, reference=reference, limit=limit, offset=offset))

    def tag(self, dataset: str, number: int, tag: str) -> DatasetVersion:
        """Point a tag at a version."""
        return self._transport.send(model.TagVersion(dataset=dataset, number=number, tag=tag))

    def commit(self, draft_id: str, number: int, contents: Contents) -> DatasetVersion:
        """Say that a draft's version is in the table. For the program that made it; safe to repeat."""
        return self._transport.send(model.CommitVersion(draft_id=draft_id, number=number, contents=contents))

    def fail(self, draft_id: str, error: ErrorBody) -> DraftStatus:
        """Say why a draft cannot be made. For the program that tried."""
        return self._transport.send(
            model.FailDraft(
                draft_id=draft_id,
                code=error.code,
                category=error.category,
                message=error.message[:_MAX_TEXT],
                next_action=error.next_action[:_MAX_TEXT],
            )
        )

    def _upload_folder(self, folder: Path) -> SourceFile:
        """Upload a folder as one archive: thousands of small files are one upload and one blob."""
        with tempfile.TemporaryDirectory(prefix="skyloom-") as scratch:
            packed = Path(scratch) / _PACKED
            pack(folder, packed)
            return SourceFile(path=_PACKED, digest=upload_file(self._transport, packed))


def pack(folder: Path, archive: Path) -> int:
    """Write the plain files of a folder into a tar archive, the same bytes every time; returns how many.

    Raises `NothingToUpload`, `LocalFileMissing`.
    """
    count = 0
    with tarfile.open(archive, "w") as tar:
        for path in _plain_files(folder):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            try:
                member.size = path.stat().st_size
                with path.open("rb") as file:
                    tar.addfile(member, file)
            except OSError as error:
                raise LocalFileMissing(f"{path} cannot be read: {error.strerror}.", next_action="Mend it.") from error
            count += 1
    if not count:
        raise NothingToUpload(f"The folder {folder} holds no file.", next_action="Name a folder with images.")
    return count


def _plain_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _names(paths: Sequence[Path]) -> "list[str]":
    """What files are called in reports: their names, numbered where two are the same."""
    names = [path.name for path in paths]
    return [name if names.count(name) == 1 else f"{index}/{name}" for index, name in enumerate(names, start=1)]
