"""Raw in, answer out: rows by their names, or a picture's bytes, and labels instead of tensors."""

import base64
import binascii
from typing import Any

import msgspec
import numpy as np

from skyloom.core.errors import SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import unreadable
from skyloom.inference.elements import Array
from skyloom.inference.forms import Form
from skyloom.inference.picture_urls import MAX_FETCHED, MAX_FETCHED_BYTES, Fetches, fetch_all, read_data
from skyloom.inference.pictures import PICTURES, PictureReader, PictureRefused
from skyloom.inference.tensors import refuse
from skyloom.inference.wire.beside import Beside
from skyloom.inference.wire.desk import Desk, failed, prediction_header
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.rest_routes import JSON_BODY, RestRoute, RestTable, schema
from skyloom.inference.wire.site import Streaming

_MAX_PICTURES = 32  # of one request
_FETCHERS = 4  # requests whose pictures are fetched at a time
_MAX_URL = 4_096
_body = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw])
_base64 = msgspec.json.Decoder(dict[str, str])


class Plain:
    """``POST /predict`` of one model.

    A JSON object is one row, a list (or ``{"rows": [...]}``) many; the answer is one object, or ``{"predictions": [...]}``. Pictures come
    as the whole body, or as ``{"b64": "…"}`` or ``{"url": "data:…"}`` in a row; they are decoded beside the event loop.

    Args:
        outside: fetches pictures by their ``http`` addresses; None refuses these.
    """

    def __init__(self, form: Form, desk: Desk, beside: Beside, outside: Fetches | None = None) -> None:
        self._outside = outside
        self._fetching = Beside(_FETCHERS, 8 * MAX_FETCHED_BYTES) if outside is not None else beside
        self._form = form
        self._desk = desk
        self._beside = beside

    def table(self) -> RestTable:
        """The address."""
        takes = JSON_BODY + (PICTURES if self._takes_pictures else ())
        summary = "Raw in, answer out: rows by their names" + (", or a picture." if self._takes_pictures else ".")
        asks = {"oneOf": [schema("Row"), schema("Rows")]}
        return {b"/predict": {b"POST": RestRoute(self._predict, summary, is_inference=True, takes=takes, asks=asks)}}

    @property
    def _takes_pictures(self) -> bool:
        return self._form.pictures is not None and len(self._form.inputs) == 1

    def _predict(self, request: Request, exchange: Streaming) -> None:
        kind = request.head.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind in PICTURES:
            self._decode(request, exchange, [request.body], is_one=True)
            return
        try:
            found = _body.decode(request.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise unreadable(f"The body is neither a row nor a list of rows: {error}.", self._hint()) from None
        is_one = isinstance(found, dict) and not (found.keys() == {"rows"} and "rows" not in self._form.fields)
        rows = [msgspec.Raw(request.body)] if is_one else self._rows(found)
        if self._takes_pictures and (pictures := self._pictures(rows)):
            self._fetch(request, exchange, pictures, is_one)
            return
        self._ask(request, exchange, self._form.read(rows), is_one)

    def _rows(self, found: Any) -> list[msgspec.Raw]:
        if isinstance(found, list):
            return found
        try:
            return msgspec.json.decode(found["rows"], type=list[msgspec.Raw])
        except msgspec.MsgspecError as error:
            raise unreadable(f"The field 'rows' is no list: {error}.", self._hint()) from None

    def _pictures(self, rows: list[msgspec.Raw]) -> list[bytes | str]:
        """The pictures of rows that are pictures, or their addresses; empty when the first is none.

        Raises `PictureRefused`, `TensorRefused`.
        """
        ((name, _),) = self._form.inputs.items()
        made: list[bytes | str] = []
        for row in rows:
            content = _picture(row, name)
            if content is None and not made:
                return []
            if content is None:
                raise refuse(f"Not every row has a picture in {name!r}.", "Send pictures only, or none.")
            if len(made) >= _MAX_PICTURES:
                raise refuse("The request has too many pictures.", f"Send at most {_MAX_PICTURES}.")
            made.append(content)
        return made

    def _fetch(self, request: Request, exchange: Streaming, pictures: list[bytes | str], is_one: bool) -> None:
        """Fetch what only was named, on a thread, then decode."""
        outside, num_named = self._outside, sum(isinstance(one, str) for one in pictures)
        if not num_named:
            self._decode(request, exchange, [one for one in pictures if isinstance(one, bytes)], is_one)
            return
        if outside is None:
            raise PictureRefused(
                "This endpoint fetches no pictures.", next_action="Send bytes; or deploy it with --picture-urls."
            )
        if num_named > MAX_FETCHED:
            raise PictureRefused(f"The request names {num_named} pictures.", next_action=f"Name at most {MAX_FETCHED}.")

        def refused(error: SkyloomError) -> None:
            exchange.answer(self._desk.count(request, failed(error)))

        def decode(fetched: list[bytes]) -> None:
            try:
                self._decode(request, exchange, fetched, is_one)
            except SkyloomError as error:
                refused(error)

        self._fetching.run(lambda: fetch_all(pictures, outside), decode, refused, MAX_FETCHED_BYTES)

    def _decode(self, request: Request, exchange: Streaming, pictures: list[bytes], is_one: bool) -> None:
        """Decode on a thread, then ask the model."""
        reader = self._form.pictures
        assert reader is not None

        def refused(error: SkyloomError) -> None:
            exchange.answer(self._desk.count(request, failed(error)))

        def ask(tensors: dict[str, Array]) -> None:
            try:
                self._ask(request, exchange, tensors, is_one)
            except SkyloomError as error:
                refused(error)

        self._beside.run(lambda: _decoded(reader, pictures), ask, refused, sum(map(len, pictures)))

    def _ask(self, request: Request, exchange: Streaming, tensors: dict[str, Array], is_one: bool) -> None:
        call = self._form.contract.call(tensors, (), "")

        def worded(ticket: Ticket) -> Response:
            assert ticket.outputs is not None
            rows = self._form.told(ticket.outputs)
            answer = rows[0] if is_one else {"predictions": rows}
            return Response(
                200,
                msgspec.json.encode({**answer, "prediction_id": ticket.prediction_id}),
                headers=prediction_header(ticket),
            )

        self._desk.ask(request, exchange, call, worded)

    def _hint(self) -> str:
        return f"Send a row, or a list of rows, of: {', '.join(self._form.fields)[:400]}."


def _decoded(reader: PictureReader, pictures: list[bytes]) -> dict[str, Array]:
    rows = [reader.read(content) for content in pictures]
    if len({row.shape for row in rows}) > 1:
        raise refuse("The pictures have different sizes.", "Send one at a time, or of one size.")
    return {reader.spec.name: np.concatenate(rows)}


def _picture(row: msgspec.Raw, name: str) -> bytes | str | None:
    """The picture of ``{name: {"b64": …}}`` or ``{"b64": …}``, or the address of ``{"url": …}``; None when the row is neither."""
    try:
        field: Any = msgspec.json.decode(row, type=dict[str, msgspec.Raw]) if bytes(row).lstrip()[:1] == b"{" else {}
        if field.keys() == {name}:
            row = field[name]
        if bytes(row).lstrip()[:1] != b"{":
            return None
        told = _base64.decode(row)
        if told.keys() == {"url"}:
            url = told["url"]
            if url[:5].lower() == "data:":
                return read_data(url)
            if len(url) > _MAX_URL:
                raise PictureRefused(f"The address in {name!r} is too long.", next_action="Send the picture's bytes.")
            return url
        return base64.b64decode(told["b64"], validate=True) if told.keys() == {"b64"} else None
    except msgspec.MsgspecError:
        return None
    except (binascii.Error, ValueError):
        raise PictureRefused(f"The picture in {name!r} is not base64.", next_action="Send base64.") from None
