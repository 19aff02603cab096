"""Clients that went away: nothing is wrong here, so the log gets one quiet line of them and no traceback."""

import logging

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected

LEFT = (ClientDisconnect, ClientDisconnected, WebSocketDisconnect)
# Every socket is accepted or refused here: the server only misses that answer when nobody was there any more to take it.
_NOBODY_THERE = "ASGI callable returned without completing handshake."


class Departures(logging.Filter):
    """Turns what the server says of a client that went away into one line; everything else stays as it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if record.msg == _NOBODY_THERE or isinstance(error, LEFT):
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
            record.msg, record.args, record.exc_info, record.exc_text = "A client went away.", (), None, None
        return True
