"""Where all places are taken, a picture is refused before anything is made of its request.

Refusing is all that a flooded server has to be quick at. Whoever is refused is told to come again after 1 to 3 seconds,
by chance: told the same, all would come again together, and all but a few be refused again. Plain ASGI, behind the
guard.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

SECONDS = (1, 3)
"""Whole seconds after which to ask again, at least and at most."""


def full(places: int) -> tuple[str, dict[str, str]]:
    """The sentence and the headers for whoever finds all places taken."""
    seconds = random.randint(*SECONDS)
    when = "a second" if seconds == 1 else f"{seconds} seconds"
    return f"all {places} places are taken: ask again in {when}", {"retry-after": str(seconds)}


class Turnstile:
    """ASGI middleware: lets requests to ``paths`` in while ``taken()`` is below ``places``, and all others always."""

    def __init__(self, app: ASGIApp, paths: Collection[str], places: int, taken: Callable[[], int]) -> None:
        self.app, self.paths, self.places, self.taken = app, paths, places, taken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self.paths and self.taken() >= self.places:
            sentence, headers = full(self.places)
            await JSONResponse({"error": sentence}, 503, headers)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
