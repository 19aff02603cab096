"""Parquet files: what the footer claims is checked before anything is allocated for it."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skyloom.core.resources import show_bytes
from skyloom.recipes.reading.source import Source, SourceTooLarge, UnreadableSource, check_names

_MAX_ROW_GROUP_BYTES = 8 * 2**30
_MAX_FOOTER_BYTES = 256 * 2**20
_BATCH_ROWS = 65_536


def schema(source: Source) -> pa.Schema:
    """The columns as they will be stored. Raises `UnreadableSource`, `SourceTooLarge`."""
    file = _opened(source)
    check_names(source.name, file.schema_arrow.names)
    return pa.schema([pa.field(field.name, _stored(source, field)) for field in file.schema_arrow])


def batches(source: Source, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows, cast to ``wanted``. Raises `UnreadableSource` when the file is damaged."""
    try:
        for batch in _opened(source).iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            columns = [pc.cast(batch.column(field.name), field.type) for field in wanted]
            rows = pa.RecordBatch.from_arrays(columns, schema=wanted)
            rows.validate(full=True)  # text that is no UTF-8 would break every later reader
            yield rows
    except (pa.ArrowException, OSError) as error:
        raise _damaged(source, error) from error


def _opened(source: Source) -> pq.ParquetFile:
    size_bytes = source.path.stat().st_size
    if size_bytes < 12:
        raise UnreadableSource(f"{source.name} is empty or cut off.", next_action="Give a whole Parquet file.")
    with source.path.open("rb") as file:
        file.seek(-8, 2)
        footer_bytes = int.from_bytes(file.read(4), "little")
    if footer_bytes > min(size_bytes - 8, _MAX_FOOTER_BYTES):
        raise UnreadableSource(
            f"{source.name} is no Parquet file, or damaged: its footer claims {show_bytes(footer_bytes)}.",
            next_action="Check the format, or copy the file again.",
        )
    try:
        file = pq.ParquetFile(str(source.path))
        file.schema_arrow.to_string()  # its names are decoded now, where a damaged one is caught
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(source, error) from error
    _check_claims(source, file.metadata, size_bytes)
    return file


def _check_claims(source: Source, claims: pq.FileMetaData, size_bytes: int) -> None:
    for index in range(claims.num_row_groups):
        group = claims.row_group(index)
        # Its columns are not looked at: pyarrow 25 ends the process when the statistics of a damaged one do not fit.
        if group.total_byte_size > _MAX_ROW_GROUP_BYTES or group.total_byte_size < 0 or group.num_rows < 0:
            raise SourceTooLarge(
                f"Row group {index} of {source.name} claims {show_bytes(group.total_byte_size)}; "
                f"the file has {show_bytes(size_bytes)}, and {show_bytes(_MAX_ROW_GROUP_BYTES)} can be read at once.",
                next_action="Write it again with smaller row groups, or copy the file again if it is damaged.",
            )


def _stored(source: Source, field: pa.Field) -> pa.DataType:
    kind = field.type
    while pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_fixed_size_list(kind) and (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    ):
        return pa.list_(pa.field("item", kind.value_type), kind.list_size)
    return _plain(source, field.name, kind)


def _plain(source: Source, name: str, kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_decimal(kind) or types.is_float16(kind):
        return pa.float64()
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_date(kind):
        return pa.date32() if types.is_date(kind) else kind
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return pa.string()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return pa.binary()
    raise UnreadableSource(
        f"Column {name!r} of {source.name} is {kind}, which a dataset cannot hold.",
        next_action="Flatten it into plain columns, or leave it out of the file.",
    )


def _damaged(source: Source, error: Exception) -> UnreadableSource:
    return UnreadableSource(
        f"{source.name} cannot be read as Parquet: {str(error).splitlines()[0][:300]}",
        next_action="Check the format, or copy the file again.",
    )
