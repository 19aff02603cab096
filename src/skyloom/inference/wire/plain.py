"""Raw in, answer out: rows by their names, or a picture's bytes, and labels instead of tensors."""

import base64
import binascii
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np

from skyloom.core.errors import SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import unreadable
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.elements import Array
from skyloom.inference.forms import Form
from skyloom.inference.picture_urls import MAX_FETCHED, MAX_FETCHED_BYTES, Fetches, fetch_all, read_data
from skyloom.inference.pictures import PICTURES, PictureReader, PictureRefused
from skyloom.inference.tensors import refuse
from skyloom.inference.wire.beside import Beside
from skyloom.inference.wire.desk import Desk, failed, prediction_header
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.rest_routes import JSON_BODY, RestRoute, schema
from skyloom.inference.wire.site import Streaming

_MAX_PICTURES = 32  # of one request
_FETCHERS = 4  # requests whose pictures are fetched at a time
_MAX_URL = 4_096
Made = TypeVar("Made")
_body = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw])
_base64 = msgspec.json.Decoder(dict[str, str])


class PictureFetches:
    """Fetches pictures for all models of a replica, on some threads; nothing of it is there before the first."""

    @functools.cached_property
    def outside(self) -> Fetches:
        from skyloom.outbound.http import HttpOutbound  # its client is loaded only where pictures are fetched

        return HttpOutbound()

    @functools.cached_property
    def threads(self) -> Beside:
        return Beside(_FETCHERS, 8 * MAX_FETCHED_BYTES)


def predict_methods(
    answer: Callable[[Request, Streaming], None], summary: str, takes: tuple[bytes, ...]
) -> dict[bytes, RestRoute]:
    """The methods of an address that takes rows."""
    asks = {"oneOf": [schema("Row"), schema("Rows")]}
    return {b"POST": RestRoute(answer, summary, is_inference=True, takes=takes, asks=asks)}


class Plain:
    """``POST /v2/models/{name}/predict`` of one model; that of the replica's own is ``POST /predict`` too.

    A JSON object is one row, a list (or ``{"rows": [...]}``) many; the answer is one object, or ``{"predictions": [...]}``. Pictures come
    as the whole body, or as ``{"b64": "…"}`` or ``{"url": "data:…"}`` in a row; they are decoded beside the event loop.

    Args:
        plane: of the model.
        fetches: what fetches pictures by their ``http`` addresses, made when the first is asked for; None refuses these.
    """

    def __init__(
        self, form: Form, plane: DataPlane, desk: Desk, beside: Beside, fetches: PictureFetches | None
    ) -> None:
        self._fetches = fetches if form.pictures is not None else None
        self._form = form
        self._plane = plane
        self._desk = desk
        self._beside = beside

    def methods(self) -> dict[bytes, RestRoute]:
        """What answers at its address."""
        takes = JSON_BODY + (PICTURES if self._takes_pictures else ())
        summary = "Raw in, answer out: rows by their names" + (", or a picture." if self._takes_pictures else ".")
        return predict_methods(self._predict, summary, takes)

    @property
    def _takes_pictures(self) -> bool:
        return self._form.pictures is not None and len(self._form.inputs) == 1

    def _predict(self, request: Request, exchange: Streaming) -> None:
        kind = request.head.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind in PICTURES:
            if not self._takes_pictures:  # of a pack's model that is known only after its head was admitted
                raise PictureRefused(f"{self._plane.plan.model!r} takes no pictures.", next_action=self._hint())
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
        fetches, num_named = self._fetches, sum(isinstance(one, str) for one in pictures)
        if not num_named:
            self._decode(request, exchange, [one for one in pictures if isinstance(one, bytes)], is_one)
            return
        if fetches is None:
            raise PictureRefused(
                "This endpoint fetches no pictures.", next_action="Send bytes; or deploy it with --picture-urls."
            )
        if num_named > MAX_FETCHED:
            raise PictureRefused(f"The request names {num_named} pictures.", next_action=f"Name at most {MAX_FETCHED}.")

        def decode(fetched: list[bytes]) -> None:
            self._decode(request, exchange, fetched, is_one)

        fetch = functools.partial(fetch_all, pictures, fetches.outside)
        self._prepare(request, exchange, fetches.threads, fetch, decode, MAX_FETCHED_BYTES)

    def _decode(self, request: Request, exchange: Streaming, pictures: list[bytes], is_one: bool) -> None:
        """Decode on a thread, then ask the model."""
        reader = self._form.pictures
        assert reader is not None

        def ask(tensors: dict[str, Array]) -> None:
            self._ask(request, exchange, tensors, is_one)

        decode = functools.partial(_decoded, reader, pictures)
        self._prepare(request, exchange, self._beside, decode, ask, sum(map(len, pictures)))

    def _prepare(
        self,
        request: Request,
        exchange: Streaming,
        threads: Beside,
        work: Callable[[], Made],
        then: Callable[[Made], None],
        num_bytes: int,
    ) -> None:
        """Do what comes before the model on a thread. The model is busy meanwhile: one of a pack does not go."""

        def refuse(error: SkyloomError) -> None:
            exchange.answer(self._desk.count(request, failed(error)))

        def failed_before(error: SkyloomError) -> None:
            self._plane.num_preparing -= 1
            refuse(error)

        def done(made: Made) -> None:
            self._plane.num_preparing -= 1
            try:
                then(made)
            except SkyloomError as error:
                refuse(error)

        threads.run(work, done, failed_before, num_bytes)
        self._plane.num_preparing += 1

    def _ask(self, request: Request, exchange: Streaming, tensors: dict[str, Array], is_one: bool) -> None:
        call = self._form.contract.call(tensors, (), "")

        def worded(ticket: Ticket) -> Response:
            assert ticket.outputs is not None
            rows = self._form.told(ticket.outputs)
            answer = rows[0] if is_one else {"predictions": rows}
            plan = self._plane.plan
            who = {"model_name": plan.model, "model_version": plan.model_version, "prediction_id": ticket.prediction_id}
            return Response(200, msgspec.json.encode({**answer, **who}), headers=prediction_header(ticket))

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
