"""Who may ask: Host, Origin, other sites, the token; and the queue on its own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from serving import Client, make_run, picture, serving

pytest.importorskip("fastapi", reason="needs the serve extra: pip install 'vitreous[serve]'")

from starlette.datastructures import Headers

from vitreous.serve.batcher import Batcher, Full, Late
from vitreous.serve.guard import Rules, refusal
from vitreous.serve.server import is_loopback, listen, rules_for

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("guard") / "run", ("a", "b"), image_size=8)


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[Client]:
    with serving(run) as client:
        yield client


def raw(port: int, *lines: str, version: str = "1.1", path: str = "/v1/model") -> int:
    """The status of a request made of these very header lines; 0 where the connection just ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall("\r\n".join([f"GET {path} HTTP/{version}", *lines, "Connection: close", "", ""]).encode("latin-1"))
        reply = line.recv(4096)
    return int(reply.split()[1]) if reply else 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:80", "[::1]:8000", "127.0.0.1:65535"])
def test_a_request_by_our_own_name_passes(host: str, client: Client) -> None:
    assert raw(client.port, f"Host: {host}") == 200


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Host:"],
        ["Host: "],
        ["Host: evil.example"],
        ["Host: localhost.evil.example"],
        ["Host: 127.0.0.1.nip.io"],
        ["Host: localhost@evil.example"],
        ["Host: localhost:99999"],
        ["Host: localhost:"],
        ["Host: localhost:80:80"],
        ["Host: local host"],
        ["Host: localhost/../x"],
        ["Host: localhost\x00"],
        ["Host: l\xf6calhost"],
        ["Host: localhost", "Host: evil.example"],
        ["Host: localhost", "Host: localhost"],
        ["Host: localhost, evil.example"],
        ["Host: 10.0.0.1"],
        ["Host: [::1"],
        ["Host: " + "a" * 5000],
    ],
)
def test_a_foreign_or_malformed_host_is_refused(lines: list[str], client: Client) -> None:
    assert 400 <= raw(client.port, *lines) < 500


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "", "localhost", "http://localhost:1", "file://", "http://[::1"),
        *("http://localhost.evil", "http://x@localhost"),
    ],
)
def test_pages_of_other_origins_are_refused(origin: str, client: Client) -> None:
    assert raw(client.port, "Host: localhost", f"Origin: {origin}") == 403
    reply = client.ask("/v1/predict", picture(), Origin=origin)
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


def test_our_own_page_may_ask(client: Client) -> None:
    own = f"http://127.0.0.1:{client.port}"
    assert client.ask("/v1/predict", picture(), Origin=own, Sec_Fetch_Site="same-origin").status == 200


def test_other_sites_may_link_here_and_no_more(client: Client) -> None:
    assert client.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
    for site in ("cross-site", "same-site"):
        assert client.get("/v1/samples/0.png", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors").status == 403
        assert client.get("/page.js", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors").status == 403


def test_every_answer_carries_the_headers_that_keep_the_page_to_itself(client: Client) -> None:
    for reply in (client.get("/"), client.get("/nowhere"), client.get("/v1/model", Host="evil.example")):
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in reply.headers


def test_with_a_token_only_the_page_and_health_are_open(run: Path) -> None:
    with serving(run, token=TOKEN) as client:
        for path in ("/", "/style.css", "/page.js", "/health"):
            assert client.get(path).status == 200
        for path in ("/v1/model", "/v1/samples", "/metrics", "/openapi.json", "/nowhere"):
            assert client.get(path).status == 401
            assert client.get(path, Authorization=f"Bearer {TOKEN}x").status == 401
            assert client.get(path, Authorization=TOKEN).status == 401
        assert client.ask("/v1/predict", picture()).headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/model", Authorization=f"Bearer {TOKEN}").status == 200


def test_elsewhere_than_on_loopback_a_token_is_needed_and_addresses_may_be_named() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(ValueError, match="takes a token: set VITREOUS_TOKEN"):
            rules_for(host)
    rules = rules_for("0.0.0.0", TOKEN, ["box.example.org"])
    sent = {"authorization": f"Bearer {TOKEN}"}
    for host in ("192.168.1.5:8000", "[fe80::1]:8000", "box.example.org", "localhost", socket.gethostname()):
        assert refusal(Headers({"host": host} | sent), rules, "/v1/model") is None
    status, _ = refusal(Headers({"host": "rebound.example"} | sent), rules, "/v1/model") or (0, "")
    assert status == 421
    for token, reason in [
        ("short", "a token of 5 characters"),
        ("schlüssel" * 3, "a token of 27"),
        ("a b" * 9 + "\n", "plain"),
    ]:
        with pytest.raises(ValueError, match=reason):
            rules_for("127.0.0.1", token)


def test_a_name_and_a_place_that_cannot_be_are_refused() -> None:
    for name in ("http://a", "a:80", "a b", ""):
        with pytest.raises(ValueError, match="is no host name"):
            rules_for("127.0.0.1", names=[name])
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9", "LocalHost"):
        assert is_loopback(host)
    with pytest.raises(ValueError, match="port -1 does not exist"):
        listen("127.0.0.1", -1)
    assert refusal(Headers({"host": "a.b"}), Rules(frozenset({"a.b"})), "/") is None


# The queue


def doubled(questions: Sequence[int]) -> list[int | Exception]:
    """A worker that takes its time, and breaks on negative numbers."""
    time.sleep(0.02)
    if min(questions) < 0:
        raise ValueError(f"{min(questions)} is negative")
    return [2 * question for question in questions]


async def asked(batcher: Batcher[int, int], numbers: Sequence[int], seconds: float = 5.0) -> list[int | BaseException]:
    deadline = time.monotonic() + seconds
    return await asyncio.gather(*(batcher.ask(n, deadline) for n in numbers), return_exceptions=True)


def test_questions_are_answered_in_groups_each_with_its_own_answer() -> None:
    sizes: list[int] = []

    async def main() -> list[int | BaseException]:
        batcher: Batcher[int, int] = Batcher(doubled, capacity=100, batch=8)
        batcher.groups = sizes.append
        batcher.start()
        try:
            return await asked(batcher, range(50))
        finally:
            await batcher.stop()

    assert asyncio.run(main()) == [2 * n for n in range(50)]
    assert max(sizes) == 8
    assert sum(sizes) == 50


def test_only_the_guilty_question_fails() -> None:
    async def main() -> list[int | BaseException]:
        batcher: Batcher[int, int] = Batcher(doubled, capacity=100, batch=16)
        batcher.start()
        try:
            return await asked(batcher, [1, 2, -3, 4])
        finally:
            await batcher.stop()

    found = asyncio.run(main())
    assert isinstance(found[2], ValueError)
    assert found[:2] + found[3:] == [2, 4, 8]


def test_the_queue_is_bounded_and_keeps_deadlines() -> None:
    async def main() -> None:
        batcher: Batcher[int, int] = Batcher(doubled, capacity=3, batch=1)
        batcher.start()
        found = await asked(batcher, range(10))
        assert sum(isinstance(each, Full) for each in found) >= 5
        found = await asked(batcher, [1, 2, 3], seconds=0.03)
        assert isinstance(found[-1], Late)
        assert await batcher.ask(5, time.monotonic() + 5) == 10
        refused = pytest.raises(Full, match="all 3 places are taken")
        with batcher.place(), batcher.place(), batcher.place(), refused, batcher.place():
            pass
        assert batcher.inside == 0
        await batcher.stop()

    asyncio.run(main())
    with pytest.raises(ValueError, match="capacity is 0: it must be at least 1"):
        Batcher(doubled, capacity=0, batch=1)


def test_who_waits_when_the_queue_ends_is_told() -> None:
    async def main() -> list[int | BaseException]:
        batcher: Batcher[int, int] = Batcher(doubled, capacity=9, batch=1)
        batcher.start()
        waiting = asyncio.ensure_future(asked(batcher, range(5)))
        await asyncio.sleep(0.03)
        await batcher.stop()
        return await waiting

    found = asyncio.run(main())
    assert isinstance(found[-1], asyncio.CancelledError)


def test_a_group_that_takes_long_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitreous.serve.batcher.PATIENCE", 0.1)
    enough = threading.Event()

    def slow(questions: Sequence[int]) -> list[int | Exception]:
        enough.wait(60)
        return doubled(questions)

    async def main() -> tuple[float, bool, list[int | BaseException]]:
        batcher: Batcher[int, int] = Batcher(slow, capacity=9, batch=1)
        batcher.start()
        waiting = asyncio.ensure_future(asked(batcher, [1, 2]))
        await asyncio.sleep(0.03)
        started = time.monotonic()
        await batcher.stop()
        return time.monotonic() - started, batcher.busy, await waiting

    try:
        seconds, busy, found = asyncio.run(main())
    finally:
        enough.set()
    assert seconds < 5
    assert busy
    assert all(isinstance(each, asyncio.CancelledError) for each in found)


def test_the_socket_is_known_as_tcp_so_that_small_answers_are_not_held_back() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
