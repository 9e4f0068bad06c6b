"""An answer that comes before the whole of a body, as refusals do, still reaches whoever is sending.

A connection that ends while its client is still sending is reset, and the reset can take the answer with it. So after
such an answer what still comes is read and thrown away for a while; then the connection ends. Plain ASGI, outermost.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODIES = (b"content-length", b"transfer-encoding")
"""Headers of a request that has a body."""
LINGER = 5.0
"""Seconds that a client which is still sending has to see its answer and stop."""


class Linger:
    """ASGI middleware that ends a connection only once its body has arrived, or LINGER seconds after the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not any(name in BODIES for name, _ in scope["headers"]):
            await self.app(scope, receive, send)
            return
        coming = True  # more of the body

        async def hear() -> Message:
            nonlocal coming
            message = await receive()
            coming = message.get("more_body", False)
            return message

        async def drop(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while coming:
                        await hear()

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                await drop(0)  # a short body is there already, and taking it keeps the connection
                if coming:
                    MutableHeaders(scope=message)["connection"] = "close"
            elif coming and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await drop(LINGER)
                message = {"type": "http.response.body"}
            await send(message)

        await self.app(scope, hear, say)
