"""Folders of PNG and JPEG images, also inside of tar archives.

Images of one shape are stored as pixels, so that training streams arrays and decodes nothing; images of different shapes are stored
as the bytes they came in, with their shape beside. What an image header claims is checked before its pixels are allocated.
"""

import csv
import io
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from skyloom.ports.tables import SHAPE
from skyloom.recipes.reading.source import Rejects, Source, SourceTooLarge, UnreadableSource
from skyloom.rooms.data.making import Ingest

_FORMATS = ("PNG", "JPEG")
_MAX_FILE_BYTES = 256 * 2**20
_MAX_PIXELS = 64 * 2**20
_MAX_PIXEL_BYTES = 2 * 2**20  # of one image stored as pixels; larger ones stay encoded
_BATCH_BYTES = 8 * 2**20
_GREY = {"1", "L", "LA", "I;16", "I"}
_IGNORED = {".ds_store", "thumbs.db", "desktop.ini"}

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Head:
    """What is known of an image without its pixels."""

    height: int
    width: int
    grey: bool


@dataclass
class ImageReader:
    """Reads image files as rows ``image, label, path`` (and height, width, channels where they differ).

    Args:
        rejects: gets files that are no readable image.
    """

    sources: list[Source]
    options: Ingest
    rejects: Rejects
    rows_read: int = field(default=0, init=False)
    _heads: dict[str, _Head] = field(default_factory=dict, init=False)
    _labels: Mapping[str, str] | None = field(default=None, init=False)
    _num_channels: int = field(default=1, init=False)

    def schema(self) -> pa.Schema:
        """Look at every header. Raises `UnreadableSource` with the list of bad files, unless they may be skipped."""
        self._labels = self._read_labels()
        for name, content in self._files():
            self.rows_read += 1
            head = self._looked_at(name, content)
            if head is not None:
                self._heads[name] = head
        if not self._heads and not self.rejects.num_rows:
            raise UnreadableSource("There is no image in these files.", next_action="Give PNG or JPEG files.")
        self._refuse_bad()
        all_grey = all(head.grey for head in self._heads.values())
        self._num_channels = self.options.channels or (1 if all_grey else 3)
        fields = [pa.field("label", pa.string()), pa.field("path", pa.string(), nullable=False)]
        shape = self._shape()
        if shape is None:
            sizes = [pa.field(name, pa.int32(), nullable=False) for name in ("height", "width", "channels")]
            return pa.schema([pa.field("image", pa.binary(), nullable=False), *fields, *sizes])
        kind = pa.list_(pa.field("item", pa.uint8(), nullable=False), int(np.prod(shape)))
        return pa.schema(
            [pa.field("image", kind, nullable=False, metadata={SHAPE: msgspec.json.encode(shape)}), *fields]
        )

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Decode every image. Files that cannot be decoded whole are rejected; call `finish` behind the last batch."""
        rows: list[tuple[str, bytes, Pixels]] = []
        size_bytes = 0
        for name, content in self._files():
            if name in self._heads:
                pixels = self._decoded(name, content)
                if pixels is not None:
                    rows.append((name, content, pixels))
                    size_bytes += pixels.nbytes + len(content)
            if size_bytes > _BATCH_BYTES:
                yield self._batch(rows, schema)
                rows, size_bytes = [], 0
        if rows:
            yield self._batch(rows, schema)

    def finish(self) -> None:
        """Raise `UnreadableSource` when a file was bad and may not be skipped."""
        self._refuse_bad()

    def _batch(self, rows: list[tuple[str, bytes, Pixels]], schema: pa.Schema) -> pa.RecordBatch:
        if pa.types.is_fixed_size_list(schema.field("image").type):
            values = pa.array(np.concatenate([pixels.reshape(-1) for _, _, pixels in rows]))
            images = pa.FixedSizeListArray.from_arrays(values, type=schema.field("image").type)
        else:
            images = pa.array([content for _, content, _ in rows], pa.binary())
        names = [name for name, _, _ in rows]
        columns = [images, pa.array([self._label(name) for name in names], pa.string()), pa.array(names)]
        if "height" in schema.names:
            shapes = np.array([pixels.shape for _, _, pixels in rows], dtype=np.int32)
            columns += [pa.array(shapes[:, axis]) for axis in (1, 2, 0)]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """Every file that should be an image."""
        for source in self.sources:
            for name, content in _members(source):
                path = PurePosixPath(name)
                if name != self.options.labels and not path.name.startswith(".") and path.name.lower() not in _IGNORED:
                    yield name, content

    def _looked_at(self, name: str, content: bytes) -> _Head | None:
        try:
            with _opened(content) as image:
                width, height = image.size
                if width * height > _MAX_PIXELS:
                    self.rejects.add(name, None, f"claims {width} x {height} pixels; {_MAX_PIXELS} are the most", name)
                    return None
                return _Head(height, width, image.mode in _GREY)
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            bomb = isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
            reason = "claims too many pixels" if bomb else "no PNG or JPEG image"
            self.rejects.add(name, None, reason, name)
            return None

    def _decoded(self, name: str, content: bytes) -> Pixels | None:
        """Pixels as [channels, height, width]."""
        try:
            with _opened(content) as image:
                size = (self.options.image_width or image.width, self.options.image_height or image.height)
                return _pixels(image, self._num_channels == 1, size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.rejects.add(name, None, f"damaged image: {error}"[:200], name)
            return None

    def _shape(self) -> tuple[int, int, int] | None:
        """The one shape of all images when they are stored as pixels."""
        if self.options.image_height and self.options.image_width:
            sizes = {(self.options.image_height, self.options.image_width)}
        else:
            sizes = {(head.height, head.width) for head in self._heads.values()}
        if len(sizes) != 1:
            return None
        height, width = sizes.pop()
        channels = self._num_channels
        return (channels, height, width) if channels * height * width <= _MAX_PIXEL_BYTES else None

    def _label(self, name: str) -> str | None:
        if self._labels is not None:
            return self._labels.get(name)
        return PurePosixPath(name).parent.name or None

    def _read_labels(self) -> Mapping[str, str] | None:
        if self.options.labels is None:
            return None
        for source in self.sources:
            for name, content in _members(source):
                if name == self.options.labels:
                    return _labels(name, content)
        raise UnreadableSource(
            f"The labels file {self.options.labels} is not among the files.", next_action="Add it, or leave out labels."
        )

    def _refuse_bad(self) -> None:
        if self.rejects.num_rows and (not self.options.skip_bad or self.rejects.num_rows == self.rows_read):
            shown = [f"{one.source} ({loss.reason})" for loss in self.rejects.losses() for one in loss.examples][:10]
            more = self.rejects.num_rows - len(shown)
            raise UnreadableSource(
                f"{self.rejects.num_rows} of {self.rows_read} files cannot be taken as images: {', '.join(shown)}"
                f"{f' and {more} more' if more else ''}.",
                next_action="Remove or mend them, or leave them out with --skip-bad.",
            )


def _opened(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(content), formats=_FORMATS)


def _pixels(image: Image.Image, grey: bool, size: tuple[int, int]) -> Pixels:
    if image.mode in {"I;16", "I"}:  # 16 bits a pixel: keep the upper 8, where PIL would cut at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("L" if grey else "RGB")
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[np.newaxis] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _members(source: Source) -> Iterator[tuple[str, bytes]]:
    """The file itself, or the plain files inside when it is a tar archive. Nothing is unpacked to the disk."""
    if PurePosixPath(source.name).suffix.lower() != ".tar":
        _check_size(source.name, source.path.stat().st_size)
        yield source.name, source.path.read_bytes()
        return
    try:
        with tarfile.open(source.path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    _check_size(member.name, member.size)
                    content = archive.extractfile(member)
                    yield member.name.removeprefix("./"), content.read() if content else b""
    except tarfile.TarError as error:
        raise UnreadableSource(f"{source.name} is no tar archive: {error}.", next_action="Pack it again.") from error


def _check_size(name: str, size_bytes: int) -> None:
    if size_bytes > _MAX_FILE_BYTES:
        raise SourceTooLarge(
            f"{name} has {size_bytes} bytes; an image file may have {_MAX_FILE_BYTES}.", next_action="Leave it out."
        )


def _labels(name: str, content: bytes) -> dict[str, str]:
    try:
        rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableSource(f"{name} cannot be read: {error}.", next_action="Write it as UTF-8 CSV.") from error
    if not rows or any(len(row) < 2 for row in rows):
        raise UnreadableSource(
            f"{name} needs a header and two columns, file and label.", next_action="Write it as file,label."
        )
    return {row[0]: row[1] for row in rows[1:]}
