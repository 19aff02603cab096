"""What makes a version of a dataset: taking files in, cleaning, splitting. Plain values, kept with the version for ever."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Digest, Id, Name, RelativePath

ColumnName = Annotated[str, Meta(min_length=1, max_length=200)]
Columns = Annotated[tuple[ColumnName, ...], Meta(max_length=10_000)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Format(enum.StrEnum):
    """What source files are."""

    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"
    IMAGES = "images"  # PNG and JPEG files, or tar archives of them


class ColumnType(enum.StrEnum):
    """What a column holds."""

    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    TEXT = "text"
    DATE = "date"
    TIMESTAMP = "timestamp"
    BYTES = "bytes"
    VECTOR = "vector"  # a fixed number of numbers
    IMAGE = "image"  # pixels, uint8, of one shape [channels, height, width]
    ENCODED_IMAGE = "encoded_image"  # PNG or JPEG bytes of any size


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """One uploaded file."""

    path: RelativePath
    digest: Digest


class Ingest(msgspec.Struct, frozen=True, kw_only=True, tag="ingest", omit_defaults=True):
    """Rows from files.

    Attributes:
        delimiter, encoding: of CSV files.
        null_tokens: texts that mean "no value" in columns of numbers, dates and truth values; in text columns only "" does.
        types: column → what it must be; a row with a value that is not is rejected. Other columns are what all their values are.
        max_bad_rows: fail when more rows than this are rejected; None keeps going and reports them.
        skip_bad: leave out files that are no readable image, instead of failing with the list of them.
        labels: CSV file among the sources that gives each image file its label; without it the label is the file's folder.
        image_height, image_width: resize every image to this; 0 keeps sizes.
        channels: 1 for grey, 3 for colour; 0 takes what the images are.
    """

    sources: Annotated[tuple[SourceFile, ...], Meta(min_length=1, max_length=1_000)]
    format: Format
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    encoding: Annotated[str, Meta(max_length=40)] = "utf-8"
    null_tokens: Annotated[tuple[Annotated[str, Meta(max_length=40)], ...], Meta(max_length=50)] = (
        "",
        "NA",
        "N/A",
        "NaN",
        "nan",
        "NULL",
        "null",
        "None",
    )
    types: Annotated[dict[ColumnName, ColumnType], Meta(max_length=10_000)] = {}
    max_bad_rows: Count | None = None
    skip_bad: bool = False
    labels: RelativePath | None = None
    image_height: Annotated[int, Meta(ge=0, le=16_384)] = 0
    image_width: Annotated[int, Meta(ge=0, le=16_384)] = 0
    channels: Annotated[int, Meta(ge=0, le=3)] = 0


class Cast(msgspec.Struct, frozen=True, kw_only=True, tag="cast"):
    """Make a column another type. Values that cannot be read as it become missing, or their rows are dropped."""

    column: ColumnName
    to: ColumnType
    drop_rows: bool = False


class Deduplicate(msgspec.Struct, frozen=True, kw_only=True, tag="deduplicate"):
    """Keep the first of rows that are equal in these columns; none named means in all but file paths and the split."""

    columns: Columns = ()


class DropMissing(msgspec.Struct, frozen=True, kw_only=True, tag="drop_missing"):
    """Drop rows with a missing value in one of these columns; none named means in any."""

    columns: Columns = ()


class Filling(enum.StrEnum):
    """What a missing value becomes."""

    MEAN = "mean"
    MEDIAN = "median"
    MODE = "mode"
    CONSTANT = "constant"


class FillMissing(msgspec.Struct, frozen=True, kw_only=True, tag="fill_missing"):
    """Fill missing values of these columns; none named means all that the method can fill.

    Mean, median and mode are taken from the training split when there is one.
    """

    method: Filling
    columns: Columns = ()
    value: (
        bool | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float | Annotated[str, Meta(max_length=400)] | None
    ) = None


class DropOutliers(msgspec.Struct, frozen=True, kw_only=True, tag="drop_outliers"):
    """Drop rows with a value further than ``spread`` interquartile ranges outside of the middle half of its column."""

    columns: Columns
    spread: Annotated[float, Meta(gt=0, le=1_000)] = 3.0


class Scale(enum.StrEnum):
    """How numbers are brought to one scale."""

    STANDARD = "standard"  # mean 0, standard deviation 1
    MIN_MAX = "min_max"  # from 0 to 1


class Normalise(msgspec.Struct, frozen=True, kw_only=True, tag="normalise"):
    """Scale columns of numbers; none named means all features. Fitted on the training split when there is one, else on all rows."""

    scale: Scale = Scale.STANDARD
    columns: Columns = ()


class DropColumns(msgspec.Struct, frozen=True, kw_only=True, tag="drop_columns"):
    """Leave columns out."""

    columns: Annotated[Columns, Meta(min_length=1)]


Step = Cast | Deduplicate | DropMissing | FillMissing | DropOutliers | Normalise | DropColumns


class Clean(msgspec.Struct, frozen=True, kw_only=True, tag="clean"):
    """Steps, one after the other."""

    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=100)]


class Split(msgspec.Struct, frozen=True, kw_only=True, tag="split"):
    """Give each row a part in the column ``split``: train, validation or test.

    By a seeded hash of the stable row id: the same row gets the same part in every version, and rows that come later move none.
    With ``stratify`` each value of that column is divided by itself, in exact shares; then later rows may move others.
    """

    train: Share = 0.8
    validation: Share = 0.0
    test: Share = 0.2
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0
    stratify: ColumnName | None = None


PartName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,80}$(?!\n)", description="A part of a split; empty for all rows.")
]


class Predict(msgspec.Struct, frozen=True, kw_only=True, tag="predict", omit_defaults=True):
    """What a model says of the rows of another dataset. Rows carry the stable id of the row that they are about in ``source_row_id``.

    Attributes:
        dataset, version: where the rows are.
        model, model_version: who says it.
        split: only the rows of this part; empty for all.
        columns: what the model takes, by its own names (of columns, or of whole inputs) → column of the dataset.
        keep: columns of the dataset that stay beside the predictions.
    """

    dataset: Name
    version: Annotated[int, Meta(ge=1, le=2**53)]
    model: Name
    model_version: Annotated[int, Meta(ge=1, le=2**53)]
    split: PartName = ""
    columns: Annotated[dict[ColumnName, ColumnName], Meta(max_length=10_000)] = {}
    keep: Columns = ()


class SampleRange(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that one replica sampled: bytes of its samples, from ``start`` to before ``stop``, whole lines.

    Attributes:
        revision: number of what answered; ``model_version`` is the digest of its bundle's manifest.
    """

    replica: Id
    start: Count
    stop: Count
    revision: Count
    model_version: Digest


class Collect(msgspec.Struct, frozen=True, kw_only=True, tag="collect", omit_defaults=True):
    """Requests and answers that an endpoint's replicas sampled, behind those that were there.

    Which bytes of whose samples is said here, and so commits with the rows: no crash takes them twice or leaves them out.

    Attributes:
        endpoint: its id; ``name`` is what it was called.
        ranges: what is new in this version.
        taken: replica → bytes of its samples that are in this version or an earlier one, of replicas that may have more.
        oldest_at: rows that were answered before, in Unix seconds, are left out; 0 keeps all.
        max_rows: of more, the oldest are left out.
    """

    endpoint: Id
    name: Name
    ranges: Annotated[tuple[SampleRange, ...], Meta(min_length=1, max_length=10_000)]
    taken: Annotated[dict[Id, Count], Meta(max_length=20_000)] = {}
    oldest_at: Annotated[float, Meta(ge=0)] = 0.0
    max_rows: Annotated[int, Meta(ge=1, le=2**40)] = 2**40


Making = Ingest | Clean | Split | Predict | Collect
SOURCE_ROW = "source_row_id"  # of predictions: the stable id of the row that they are about
SPLIT_COLUMN = "split"
TRAINING_PART = "train"  # what numbers and weights are fitted on
