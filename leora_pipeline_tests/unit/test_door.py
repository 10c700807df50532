"""The door before the web server, asked without one."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from leora_pipeline.orchestration.door import OwnPagesOnly


def status(port: int, headers: list[tuple[str, str]]) -> int:
    """Returns the status with which a request for the first page is answered."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(OwnPagesOnly(PlainTextResponse("the UI"), port)(scope, receive, send))
    answered: int = sent[0]["status"]
    return answered


@pytest.mark.parametrize(("port", "expected"), [(80, 200), (3000, 403)])
def test_a_browser_leaves_out_port_80_and_no_other(port: int, expected: int) -> None:
    host, origin = ("host", "localhost"), ("origin", "http://localhost")

    assert status(port, [host, origin]) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("host", "localhost:3000"), ("host", "evil.example")],
        [("host", "localhost:3000"), ("origin", "http://localhost:3000"), ("origin", "null")],
    ],
)
def test_a_header_that_is_missing_or_comes_twice_opens_nothing(
    headers: list[tuple[str, str]],
) -> None:
    assert status(3000, headers) == 403
