"""MLflow's scoring protocol: ``/invocations`` in JSON and CSV, ``/ping`` and ``/version``."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from skyloom import __version__
from skyloom.core.errors import Unavailable
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import unreadable
from skyloom.inference.elements import Array
from skyloom.inference.forms import Cell, Form
from skyloom.inference.rows import plain, read_column, read_rows
from skyloom.inference.tensors import refuse
from skyloom.inference.wire.desk import Desk, failed, prediction_header
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.rest_routes import RestRoute, RestTable, at_once
from skyloom.inference.wire.site import Streaming

_TAKES = (b"application/json", b"text/csv")
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?\s*", re.ASCII)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class SplitFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A table by its columns' names and its rows."""

    columns: list[str]
    data: list[list[msgspec.Raw]]
    index: list[Any] = []


class MlflowScoring:
    """``/invocations`` of one model: rows in, its first output's rows out, or all outputs by name where there are several."""

    def __init__(self, form: Form, desk: Desk) -> None:
        self._form = form
        self._desk = desk
        self._first = next(iter(form.inputs), "")

    def table(self) -> RestTable:
        """The addresses."""
        return {
            b"/invocations": {
                b"POST": RestRoute(self._invoke, "MLflow's scoring of rows.", is_inference=True, takes=_TAKES)
            },
        }

    def _invoke(self, request: Request, exchange: Streaming) -> None:
        kind = request.head.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        tensors = self._of_csv(request.body) if kind == b"text/csv" else self._of_json(request.body)
        call = self._form.contract.call(tensors, (), "")

        def worded(ticket: Ticket) -> Response:
            assert ticket.outputs is not None
            body = msgspec.json.encode({"predictions": self._predictions(ticket.outputs)})
            return Response(200, body, headers=prediction_header(ticket))

        self._desk.ask(request, exchange, call, worded)

    def _predictions(self, outputs: Sequence[Array]) -> list[Any]:
        specs = self._form.contract.signature.outputs
        whole = [
            plain(spec, output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output)
            for spec, output in zip(specs, outputs, strict=True)
        ]
        if len(whole) == 1:
            return list(whole[0])
        return [dict(zip((spec.name for spec in specs), row, strict=True)) for row in zip(*whole, strict=True)]

    def _of_json(self, body: bytes) -> dict[str, Array]:
        try:
            fields = _fields.decode(body)
            given = [name for name in fields if name != "params"]
            if len(given) != 1 or given[0] not in _FORMS:
                raise unreadable("The body does not bring its rows in one form.", f"Send one of: {', '.join(_FORMS)}.")
            if fields.get("params") not in (None, msgspec.Raw(b"{}"), msgspec.Raw(b"null")):
                raise unreadable("The model takes no params.", "Leave them out.")
            return self._of_form(given[0], fields[given[0]])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise unreadable(
                f"The body is not what /invocations takes: {error}.", "See MLflow's scoring protocol."
            ) from None

    def _of_form(self, name: str, content: msgspec.Raw) -> dict[str, Array]:
        if name == "dataframe_split":
            frame = msgspec.json.decode(content, type=SplitFrame)
            if len(set(frame.columns)) != len(frame.columns):
                raise unreadable("The field 'columns' names one twice.", "Name each once.")
            if any(len(row) != len(frame.columns) for row in frame.data):
                raise unreadable("A row of 'data' has not one value a column.", "Send as many values as columns.")
            return self._of_records([dict(zip(frame.columns, row, strict=True)) for row in frame.data])
        if name == "dataframe_records":
            return self._of_records(msgspec.json.decode(content, type=list[dict[str, msgspec.Raw]]))
        if name == "instances":
            return self._form.read(msgspec.json.decode(content, type=list[msgspec.Raw]))
        if bytes(content).lstrip()[:1] == b"{":
            return self._of_columns(msgspec.json.decode(content, type=dict[str, list[msgspec.Raw]]))
        return self._form.read(msgspec.json.decode(content, type=list[msgspec.Raw]))

    def _of_columns(self, columns: Mapping[str, list[msgspec.Raw]]) -> dict[str, Array]:
        """Each input with all of its rows."""
        lengths = {len(values) for values in columns.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise unreadable("The inputs have no rows, or different numbers of them.", "Send the same number in each.")
        (count,) = lengths
        return self._of_records([{name: values[at] for name, values in columns.items()} for at in range(count)])

    def _of_records(self, rows: Sequence[Mapping[str, msgspec.Raw]]) -> dict[str, Array]:
        """Rows by the model's columns, by its inputs, or, where neither has these names, by the order of a single input's numbers."""
        if not rows:
            raise refuse("There are no rows.", "Send at least one.")
        form, names = self._form, list(rows[0])
        if form.columns:
            return form.read_cells(
                [{name: msgspec.json.decode(raw, type=Cell) for name, raw in row.items()} for row in rows]
            )
        spec = form.inputs[self._first]
        is_unnamed = len(form.inputs) == 1 and self._first not in names and spec.shape[1:] in ((len(names),), (-1,))
        if not is_unnamed:
            return read_rows(form.contract, rows)
        if any(list(row) != names for row in rows):
            raise unreadable("The rows do not all name the same columns in one order.", "Send dataframe_split.")
        values = [b"[" + b",".join([bytes(value) for value in row.values()]) + b"]" for row in rows]
        return {spec.name: read_column(form.contract, spec, values)}

    def _of_csv(self, body: bytes) -> dict[str, Array]:
        try:
            lines = list(csv.reader(io.StringIO(body.decode(), newline=""), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise unreadable(f"The body is not CSV: {error}.", "Send a line of names, and one line a row.") from None
        rows = [line for line in lines[1:] if line]
        if not rows or len(set(lines[0])) != len(lines[0]) or any(len(row) != len(lines[0]) for row in rows):
            raise unreadable(
                "The CSV has no rows, or not one value a column.", "Send a line of names, and one line a row."
            )
        return self._of_records([dict(zip(lines[0], map(_raw, row), strict=True)) for row in rows])


def status_table(is_ready: Any) -> RestTable:
    """``/ping``, ``/health`` and ``/version``: what is asked before anything else, without a token."""

    def ping(request: Request) -> Response:
        if is_ready():
            return Response(200, b"\n")
        return failed(
            Unavailable("This replica takes no requests.", next_action="Send again: another replica answers.")
        )

    answer = RestRoute(at_once(ping), "New requests are taken.", is_open=True)
    version = RestRoute(at_once(lambda _: Response(200, __version__.encode(), b"text/plain")), "The server's version.")
    return {b"/ping": {b"GET": answer}, b"/health": {b"GET": answer}, b"/version": {b"GET": version}}


def _raw(text: str) -> msgspec.Raw:
    """A cell of CSV as JSON: a number where it is one, nothing where it is empty, else a text."""
    if not text.strip():
        return msgspec.Raw(b"null")
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    if not math.isfinite(number):
        return msgspec.Raw(msgspec.json.encode(text))
    return msgspec.Raw(msgspec.json.encode(int(number) if number.is_integer() and abs(number) < 2**53 else number))
