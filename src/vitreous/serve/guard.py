"""Who may ask: the gate in front of every route. Plain ASGI, so that it stands before any body is read.

A page of another site in the same browser is the attacker that a server on loopback has: it can send requests here,
and with a name that it points at 127.0.0.1 (DNS rebinding) it could read the answers. Host, Origin and Sec-Fetch-Site
stop it. Elsewhere than on loopback everything but the page's own files and ``/health`` needs the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitreous.serve.metrics import Metrics

HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]{1,253})(?::(?P<port>\d{1,5}))?", re.IGNORECASE)

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
"""Of every answer: the page loads nothing from elsewhere, and nobody else can load or frame it."""
_RAW = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
_NAMES = frozenset(name for name, _ in _RAW)


@dataclass(frozen=True)
class Rules:
    """Names that a Host header may carry (lower case), whether any IP address may stand there, and the token."""

    hosts: frozenset[str]
    addresses: bool = False
    token: str | None = None
    open: frozenset[str] = frozenset()
    """Paths that need no token: the page's own files, which hold nothing secret."""
    routes: frozenset[str] = frozenset()
    """Paths that metrics tell apart."""


def refusal(headers: Headers, rules: Rules, path: str) -> tuple[int, str] | None:
    """Status and reason for a request that must not pass; None for one that may."""
    hosts = headers.getlist("host")
    found = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if found is None or int(found["port"] or 0) > 65535:
        return 400, "the Host header is missing, doubled or malformed"
    name = found["name"].lower().strip("[]")
    if name not in rules.hosts and not (rules.addresses and _is_address(name)):
        return 421, "this server does not go by that name: open it by the address it printed, or allow the name"
    origins = headers.getlist("origin")
    if origins and (len(origins) > 1 or not _same(origins[0], hosts[0])):
        return 403, "requests from pages of other origins are refused"
    site = headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin") and not (path == "/" and headers.get("sec-fetch-mode") == "navigate"):
        return 403, "requests from pages of other sites are refused"
    if rules.token and path not in rules.open:
        sent = headers.get("authorization", "").encode()
        if not hmac.compare_digest(sent, f"Bearer {rules.token}".encode()):
            return 401, "a token is needed: send the header 'Authorization: Bearer TOKEN'"
    return None


def _guarded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """An answer's headers, names in lower case, with HEADERS; not to be kept by anybody unless they say otherwise."""
    own = [pair for pair in headers if pair[0] not in _NAMES]
    if all(name != b"cache-control" for name, _ in own):
        own.append((b"cache-control", b"no-store"))
    return own + _RAW


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(origin: str, host: str) -> bool:
    """Whether an Origin names this very host and port. The scheme may differ: TLS can end in front of us."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and origin.lower() == f"{parts.scheme}://{host.lower()}"


class Guard:
    """ASGI middleware: refuses what must not pass, adds HEADERS to every answer, and counts."""

    def __init__(self, app: ASGIApp, rules: Rules, metrics: Metrics) -> None:
        self.app, self.rules, self.metrics = app, rules, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket: there is none here
            await send({"type": "websocket.close", "code": 1008})
            return
        started, path, status = time.monotonic(), scope["path"], 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _guarded(message["headers"])}
            await send(message)

        refused = refusal(Headers(scope=scope), self.rules, path)
        try:
            if refused is None:
                await self.app(scope, receive, answer)
            else:
                code, reason = refused
                extra = {"www-authenticate": "Bearer"} if code == 401 else None
                await JSONResponse({"error": reason}, code, extra)(scope, receive, answer)
        finally:
            known = path if path in self.rules.routes else "other"
            self.metrics.request(known, status, time.monotonic() - started)
