"""A model as a function of a cloud: events of a function URL (format 2.0, as AWS Lambda sends them) ↔ the Open Inference Protocol."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skyloom.inference.direct import open_site
from skyloom.inference.wire.messages import JSON, Response

Event = Mapping[str, Any]
FunctionHandler = Callable[[Event, object], dict[str, Any]]


def handler_of(plan: Path) -> FunctionHandler:
    """Load the model now (the platform counts that as start-up), and return what answers events, one after the other.

    Raises `PlanRefused`, `BundleRefused`, `ModelFailed`, `TensorMissing`.
    """
    runner = asyncio.Runner()
    site = runner.run(open_site(plan))

    def handle(event: Event, context: object) -> dict[str, Any]:
        asked = (event.get("requestContext") or {}).get("http") or {}  # a test event of the console lacks most of it
        try:
            body = _body(event)
        except (ValueError, binascii.Error):
            return {
                "statusCode": 400,
                "headers": {"content-type": "application/json"},
                "body": '{"error":"The body is not base64."}',
            }
        target = str(event.get("rawPath", "/"))
        headers = {str(name): str(value) for name, value in (event.get("headers") or {}).items()}
        return _told(runner.run(site.answer(str(asked.get("method", "GET")), target, headers, body)))

    return handle


def _body(event: Event) -> bytes:
    text = str(event.get("body") or "")
    return base64.b64decode(text, validate=True) if event.get("isBase64Encoded") else text.encode()


def _told(said: Response) -> dict[str, Any]:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in said.headers}
    headers["content-type"] = said.content_type.decode("latin-1")
    is_text = said.content_type == JSON or said.content_type.startswith(b"text/")
    body = said.body.decode() if is_text else base64.b64encode(said.body).decode()
    return {"statusCode": said.status, "headers": headers, "body": body, "isBase64Encoded": not is_text}
