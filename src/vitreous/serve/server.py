"""The socket, the rules for who may ask, and the signals: everything about serving that is not a route."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from vitreous.serve.app import build
from vitreous.serve.engine import open_runs
from vitreous.serve.guard import HOST, Rules
from vitreous.serve.samples import draw

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SHORTEST_TOKEN = 16
DRAIN = 25
"""Seconds that requests under way get to finish once the server is told to stop."""


def rules_for(host: str, token: str | None = None, names: Sequence[str] = ()) -> Rules:
    """Who may ask a server that listens on ``host``, an address or a name.

    On loopback a token is not needed; elsewhere it is, and requests may name any IP address, this machine's name, or
    one of ``names``. Raises ValueError for no token, a short one, and a name that cannot be.
    """
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ValueError(
            f"a token of {len(token)} characters: use {SHORTEST_TOKEN} or more plain ones, such as "
            f"python3 -c 'import secrets; print(secrets.token_urlsafe())' gives"
        )
    for name in names:
        found = HOST.fullmatch(name)
        if not found or found["port"]:
            raise ValueError(f"{name!r} is no host name: give it without scheme and port, such as server.example.org")
    named = {name.lower().strip("[]") for name in names}
    if is_loopback(host):
        return Rules(LOOPBACK | named | {host.lower()}, token=token)
    if token is None:
        raise ValueError(
            f"--host {host} lets other machines in, which takes a token: set VITREOUS_TOKEN or --token, or leave "
            f"--host out to serve this machine alone"
        )
    own = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return Rules(LOOPBACK | named | own, addresses=True, token=token)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ValueError for what cannot be listened on."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} does not exist: use one of 1024 to 65535, or 0 for any that is free")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror:
        raise ValueError(f"--host {host} is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all") from None
    # named as TCP, or asyncio does not know it as such and an answer waits 40 ms for an acknowledgement (Nagle)
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":  # where SO_REUSEADDR would let a second server take the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:  # a port whose last server has just ended is free
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as problem:
        listener.close()
        cures = {
            errno.EADDRINUSE: "something listens there already: choose another --port",
            errno.EACCES: "ports below 1024 are the system's: choose another --port",
            errno.EADDRNOTAVAIL: "that is no address of this machine: choose another --host",
        }
        if problem.errno not in cures:
            raise
        raise ValueError(f"cannot listen on {host} port {port}: {cures[problem.errno]}") from None
    return listener


class Server(uvicorn.Server):
    """Uvicorn that ends with a return, not by raising its signal again: the caller chooses the exit code."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Door:
    """Where to listen and whom to let in."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 for any that is free."""
    token: str | None = None
    names: tuple[str, ...] = ()
    """Host names to answer to besides those of this machine."""


def server_for(app: FastAPI) -> Server:
    """Uvicorn for the app: quiet, without WebSockets, patient with requests under way when it is told to stop."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # whoever sent a bad form is told what is wrong
    return Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            ws="none",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=DRAIN,
        )
    )


def serve(
    paths: Sequence[Path], door: Door, data_root: Path | None = None, ready: Callable[[str], None] | None = None
) -> None:
    """Serve the classifiers of run folders until SIGINT or SIGTERM, then finish what is under way.

    ``ready`` is told the address to open, once. Sample pictures come from the first run's data. Raises ValueError and
    OSError for what the user can mend, before anything is served.
    """
    rules = rules_for(door.host, door.token, door.names)
    with listen(door.host, door.port) as listener:
        app = build(open_runs(paths), rules, samples=partial(draw, paths[0], data_root))
        host = f"[{door.host}]" if ":" in door.host else door.host
        if ready:
            ready(f"http://{host}:{listener.getsockname()[1]}/")
        server_for(app).run(sockets=[listener])
    if app.state.reader.is_alive() or app.state.service.batcher.busy:
        os._exit(0)  # nobody waits any more; a data set read for its samples or a long group could take minutes
