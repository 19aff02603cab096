"""What the control plane's log must not hold."""

import asyncio
import logging

import httpx
import pytest

from skyloom.faces.rest.server import begin_log


def test_addresses_that_are_called_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    calls = logging.getLogger("httpx")
    before = calls.level
    caplog.set_level(logging.INFO)
    try:
        begin_log()

        async def call() -> None:
            answer = httpx.MockTransport(lambda _: httpx.Response(200))
            async with httpx.AsyncClient(transport=answer) as client:
                await client.post("https://hooks.example/services/canary-secret?token=canary-secret")

        asyncio.run(call())
    finally:
        calls.setLevel(before)
    assert "canary-secret" not in caplog.text
