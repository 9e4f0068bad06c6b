"""The HTTP interface: what it answers equals the library and the command line, whoever asks at the same time."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import corpus
import pytest
import torch
from PIL import Image
from serving import HOSTILE, Client, digits_run, make_run, picture, serving
from test_cli import call

pytest.importorskip("fastapi", reason="needs the serve extra: pip install 'vitreous[serve]'")

from vitreous.classifier import Classifier
from vitreous.evaluate import run_images
from vitreous.heatmaps import heat, methods_for, patch_attention
from vitreous.serve import app as application
from vitreous.serve import linger
from vitreous.serve.app import FILES, Limits, page_file
from vitreous.serve.engine import Answer, Question, answer


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of the digits, and one in colour whose classes have hostile names."""
    folder = tmp_path_factory.mktemp("serve")
    return digits_run(folder / "digits"), make_run(folder / "colour", HOSTILE, image_size=16)


@pytest.fixture(scope="module")
def client(runs: tuple[Path, Path]) -> Iterator[Client]:
    with serving(*runs) as client:
        yield client


@pytest.fixture(scope="module")
def colour(runs: tuple[Path, Path]) -> Classifier:
    return Classifier.load(runs[1])


# The same answer everywhere


@pytest.mark.parametrize(
    ("kind", "size"), [("PNG", (40, 24)), ("JPEG", (100, 300)), ("WEBP", (16, 16)), ("GIF", (9, 7))]
)
def test_http_library_and_command_line_give_one_answer(
    kind: str, size: tuple[int, int], runs: tuple[Path, Path], client: Client, colour: Classifier, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{kind.lower()}"
    file.write_bytes(picture(3, size, kind))
    reply = client.ask("/v1/predict?run=colour&top=4", file.read_bytes())
    assert reply.status == 200, reply.body
    logits = colour.logits(colour.read(file)[None])[0]
    assert reply.json["logits"] == logits.tolist()  # not one bit differs: JSON keeps every float32
    said = json.loads(call("predict", runs[1], file, "--json", "--top", 4).stdout)
    assert reply.json["top"] == said["top"]
    assert (reply.json["label"], reply.json["probability"]) == (said["label"], said["probability"])


def test_a_form_is_answered_as_the_bytes_in_it(client: Client) -> None:
    bare = client.ask("/v1/predict", picture())
    for name in ('name="image"; filename="cat.png"', 'name="x"; filename="../../<b>\\\\ \\"☃.exe"'):
        assert client.form("/v1/predict", [(name, picture())]).json == bare.json


def test_every_map_is_the_librarys(client: Client, colour: Classifier) -> None:
    pixels = colour.read(picture(5))[None]
    for method in methods_for(colour.model):
        reply = client.ask(f"/v1/heatmap?run=colour&method={method}&seen=true", picture(5))
        assert reply.status == 200, reply.body
        torch.testing.assert_close(torch.tensor(reply.json["map"]), heat(colour, pixels, method)[0])
        seen = base64.b64decode(reply.json["picture"].removeprefix("data:image/png;base64,"))
        assert torch.equal(colour.read(seen), pixels[0])  # asked again, it is the same picture
    reply = client.ask("/v1/heatmap?run=colour&layer=2&head=1", picture(5))
    assert torch.equal(torch.tensor(reply.json["map"]), heat(colour, pixels, "attention", layer=2, head=1)[0])
    assert reply.json["logits"] == colour.logits(pixels)[0].tolist()
    reply = client.ask("/v1/heatmap?run=colour&layer=3&head=2&patch=1,3", picture(5))
    found = patch_attention(colour.model, colour.prepare(pixels), (1, 3))[0, 2, 1]
    assert torch.equal(torch.tensor(reply.json["map"]), found)
    assert (reply.json["patch"], reply.json["layer"], reply.json["head"]) == ([1, 3], 3, 2)


def test_a_map_can_be_about_another_class(client: Client, colour: Classifier) -> None:
    name = colour.classes[2]
    query = f"/v1/heatmap?run=colour&method=input-gradient&target={'%E2%80%AE' + 'desrever'}"
    reply = client.ask(query, picture(5))
    assert reply.json["target"] == name
    found = heat(colour, colour.read(picture(5))[None], "input-gradient", name)[0]
    torch.testing.assert_close(torch.tensor(reply.json["map"]), found)


def test_model_says_what_can_be_asked(client: Client) -> None:
    digits, colour = client.get("/v1/model").json["runs"]
    assert (digits["name"], digits["size"], digits["channels"], digits["grid"]) == ("digits", 8, 1, [4, 4])
    assert (colour["name"], colour["layers"], colour["heads"], colour["source"]) == ("colour", 3, 2, "class token")
    assert colour["classes"] == list(HOSTILE)
    assert digits["methods"][0] | {"explains": ""} == {
        "name": "attention",
        "explains": "",
        "layers": True,
        "patch": True,
        "target": False,
        "faithful": None,
    }


def samples(client: Client) -> Any:
    """The list, once the data are read."""
    for _ in range(20):
        reply = client.get("/v1/samples")
        if reply.status == 200:
            return reply.json
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    raise AssertionError("no samples")


def test_samples_are_validation_pictures(client: Client, runs: tuple[Path, Path]) -> None:
    listed = samples(client)
    assert len(listed["samples"]) == 24
    assert listed["note"] is None
    classifier, images, _ = run_images(runs[0], "val")
    known = {source: i for i, source in enumerate(images.ids)}
    for sample in listed["samples"][:4]:
        reply = client.get(f"/v1/samples/{sample['id']}.png")
        assert reply.headers["content-type"] == "image/png"
        place = known[sample["source"]]
        assert torch.equal(classifier.read(reply.body), images.pixels[place])
        assert sample["label"] == classifier.classes[images.labels[place]]
    assert client.get("/v1/samples/24.png").status == 404


def test_without_the_data_there_is_a_note_in_place_of_samples(runs: tuple[Path, Path]) -> None:
    with serving(runs[1]) as client:
        listed = samples(client)
        assert listed["samples"] == []
        assert "No sample pictures" in listed["note"]
        assert client.ask("/v1/predict", picture()).status == 200


# What cannot be asked


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("method=rolout", "unknown method 'rolout': did you mean 'rollout'?"),
        ("layer=4", "there is no layer 4: the model has layers 1 to 3"),
        ("head=0", "head: "),
        ("layer=-1", "layer: "),
        ("patch=4,0", "patch 4,0 is not on the grid: rows are 0 to 3, columns 0 to 3"),
        ("patch=a", "patch: "),
        ("method=rollout&layer=1", "rollout goes through all layers and heads at once"),
        ("method=rollout&patch=1,1", "only attention shows what one patch looks at"),
        ("target=3", "the maps of attention are the same for every class"),
        ("method=relevance&target=cow", "there is no class 'cow'"),
        ("top=0", "top: "),
        ("seen=perhaps", "seen: "),
        ("run=" + "x" * 1000, "run: "),
    ],
)
def test_a_wrong_parameter_is_explained(query: str, reason: str, client: Client) -> None:
    reply = client.ask(f"/v1/heatmap?{query}", picture())
    assert reply.status == 400
    assert reply.json["error"].startswith(reason)


def test_a_run_that_is_not_there_is_named(client: Client) -> None:
    reply = client.ask("/v1/predict?run=colours", picture())
    assert (reply.status, reply.json["error"]) == (404, "unknown run 'colours': did you mean 'colour'?")


BAD = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "html": b"<html><script>alert(1)</script></html>",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "pdf": b"%PDF-1.7\n",
    "pickle": b"\x80\x04\x95cposix\nsystem\n.",
    "noise": bytes(range(256)) * 40,
    "cut png": picture()[:-40],
    "cut jpeg": picture(0, (200, 200), "JPEG")[:1500],
    "signature alone": b"\x89PNG\r\n\x1a\n",
    "bomb": re.sub(rb"(?<=IHDR).{8}", b"\x00\x00\xff\xff\x00\x00\xff\xff", picture(), flags=re.DOTALL),
    "60 megapixels": re.sub(rb"(?<=IHDR).{8}", b"\x00\x00\x1f\xff\x00\x00\x1d\xff", picture(), flags=re.DOTALL),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused(name: str, client: Client) -> None:
    for reply in (
        client.ask("/v1/heatmap", BAD[name]),
        client.form("/v1/predict", [('name="image"; filename="a.jpg"', BAD[name])]),
    ):
        assert reply.status == 422, reply.body
        assert reply.json["error"].startswith("the picture cannot be read: ")
        assert len(reply.body) < 400


def test_bodies_that_are_not_one_picture_are_refused(client: Client) -> None:
    file = ('name="image"; filename="a.png"', picture())
    assert client.ask("/v1/predict", b"").status == 400
    assert client.form("/v1/predict", []).status == 400
    assert client.form("/v1/predict", [file, file]).status == 400
    assert client.form("/v1/predict", [('name="image"', picture())]).status == 400  # a field, not a file
    assert client.form("/v1/predict", [(f'name="f{i}"; filename="{i}.png"', b"x") for i in range(10_000)]).status == 400
    assert client.form("/v1/predict", [(f'name="f{i}"', b"x") for i in range(10_000)]).status == 400
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary="\xff"'):
        assert client.ask("/v1/predict", picture(), Content_Type=kind).status == 400
    assert client.ask("/v1/predict", b"--edge\r\n\r\n", Content_Type="multipart/form-data; boundary=edge").status == 400


def test_a_large_body_is_refused_before_it_is_read(runs: tuple[Path, Path]) -> None:
    with serving(runs[1], limits=Limits(most_bytes=10_000)) as client:
        with socket.create_connection(("127.0.0.1", client.port), timeout=5) as line:
            line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n")
            assert line.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert client.ask("/v1/predict", picture()).status == 200


@pytest.mark.parametrize(("path", "refused"), [("/v1/predict", 413), ("/v1/nowhere", 404), ("/v1/predict?top=x", 400)])
def test_whoever_sends_too_much_gets_the_refusal_and_not_a_reset(
    path: str, refused: int, runs: tuple[Path, Path]
) -> None:
    size, chunk = 2**24, bytes(2**16)
    with serving(runs[1], limits=Limits(most_bytes=10_000)) as client:
        declared = client("POST", path, bytes(size), {"Connection": "close"})
        streamed = client("POST", path, (chunk for _ in range(size // len(chunk))))
    for reply in (declared, streamed):  # these clients look for an answer once they have sent everything
        assert reply.status == refused
        assert reply.headers["connection"] == "close"
        assert "error" in reply.json


def test_whoever_never_stops_sending_is_cut_off(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER", 0.3)

    def on_and_on() -> Iterator[bytes]:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            yield bytes(1000)

    with serving(runs[1]) as client, pytest.raises(ConnectionError):
        client("POST", "/v1/nowhere", on_and_on())


def test_a_refusal_keeps_the_connection_of_whoever_has_sent_all(client: Client) -> None:
    body = picture()
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as line:
        for path, status in (("/v1/nowhere", 404), ("/v1/predict", 200)):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            line.sendall(head.encode() + body)  # at once: http.client sends a body apart, which may come too late
            response = http.client.HTTPResponse(line)
            response.begin()
            assert response.status == status
            assert response.getheader("connection") is None
            response.read()


def test_routes_that_are_not_there(client: Client) -> None:
    for path in ("/docs", "/redoc", "/v1", "/page/index.html", "/..%2f..%2fetc/passwd", "/style.css/"):
        assert client.get(path).status == 404, path
    assert client.get("/v1/predict").status == 405
    assert client("DELETE", "/v1/model").status == 405
    assert "error" in client.get("/nowhere").json


# Together


def test_many_at_once_each_get_their_own_answer_and_a_bad_one_fails_alone(
    client: Client, colour: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(seed: int) -> tuple[int, list[float] | None]:
        body = BAD["cut png"] if seed % 7 == 3 else picture(seed)
        reply = client.ask("/v1/heatmap?run=colour" if seed % 2 else "/v1/predict?run=colour", body)
        return reply.status, reply.json.get("logits")

    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(one, range(60)))
    for seed, (status, logits) in enumerate(replies):
        if seed % 7 == 3:
            assert status == 422
            continue
        assert status == 200
        alone = colour.logits(colour.read(picture(seed))[None])[0]
        torch.testing.assert_close(torch.tensor(logits), alone, rtol=1e-5, atol=1e-5)


def slowly(seconds: float) -> object:
    """The engine, after a pause."""

    def pause(questions: Sequence[Question]) -> list[Answer | Exception]:
        time.sleep(seconds)
        return answer(questions)

    return pause


@pytest.mark.alone
def test_a_full_server_says_so_at_once(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "answer", slowly(0.5))
    body, times, waits = picture(), [], set()

    def one(_: int) -> int:
        started = time.monotonic()
        reply = client.ask("/v1/predict", body)
        if reply.status == 503:
            times.append(time.monotonic() - started)
            waits.add(reply.headers["retry-after"])
            assert "all 4 places are taken" in reply.json["error"]
        return reply.status

    with serving(runs[1], limits=Limits(places=4, batch=2)) as client, ThreadPoolExecutor(40) as pool:
        statuses = list(pool.map(one, range(40)))
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 4
        busy = [pool.submit(one, i) for i in range(4)]
        while not all(future.done() for future in busy):
            one(0)
        assert one(0) == 200  # and recovers
        assert "vitreous_places_taken 0" in client.get("/metrics").body.decode()
    assert waits == {"1", "2", "3"}  # or all would come again together
    assert min(times) < 0.1  # forty threads asking hold each other up: the quickest tells what the server takes


@pytest.mark.alone
def test_late_answers_and_slow_uploads_end_at_the_deadline(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "answer", slowly(1.0))
    with serving(runs[1], limits=Limits(deadline=0.4)) as client:
        started = time.monotonic()
        reply = client.ask("/v1/predict", picture())
        assert (reply.status, reply.headers["retry-after"]) == (503, "3")
        assert time.monotonic() - started < 0.9
        with socket.create_connection(("127.0.0.1", client.port), timeout=5) as line:
            line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nhalf")
            assert line.recv(4096).startswith(b"HTTP/1.1 503 ")
        with socket.create_connection(("127.0.0.1", client.port), timeout=5) as line:  # leaves in the middle
            line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nhalf")
        time.sleep(0.6)
        metrics = client.get("/metrics").body.decode()
        assert "vitreous_places_taken 0" in metrics
        assert 'status="500"' not in metrics


def test_an_engine_that_breaks_breaks_one_answer(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(questions: Sequence[Question]) -> list[Answer | Exception]:
        if any(question.pixels.float().mean() < 5 for question in questions):
            raise RuntimeError("black")
        time.sleep(0.05)
        return answer(questions)

    monkeypatch.setattr(application, "answer", breaks)
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    black = file.getvalue()
    with serving(runs[1]) as client, ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda i: client.ask("/v1/predict", black if i == 5 else picture(i)), range(12)))
    assert [reply.status for reply in replies] == [500 if i == 5 else 200 for i in range(12)]
    assert all("default-src 'none'" in reply.headers["content-security-policy"] for reply in replies)


# What Prometheus and the browser get


def test_metrics_are_in_prometheus_format_and_count(runs: tuple[Path, Path]) -> None:
    with serving(runs[1]) as client:
        client.ask("/v1/predict", picture())
        client.ask("/v1/predict", b"no picture")
        client.get('/some/path/of"a{stranger}')
        reply = client.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = reply.body.decode().splitlines()
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"{}]*"(,[a-z]+="[^"{}]*")*\})? [0-9.e+-]+')
    assert all(line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line) for line in lines)
    assert 'vitreous_requests_total{path="/v1/predict",status="200"} 1' in lines
    assert 'vitreous_requests_total{path="/v1/predict",status="422"} 1' in lines
    assert 'vitreous_requests_total{path="other",status="404"} 1' in lines
    assert 'vitreous_batch_size_bucket{le="1.0"} 1' in lines


def test_the_interface_describes_itself(client: Client) -> None:
    described = client.get("/openapi.json").json
    assert set(described["paths"]) == {
        "/v1/predict", "/v1/heatmap", "/v1/model", "/v1/samples", "/v1/samples/{number}.png", "/health", "/metrics",
    }  # fmt: skip
    for path in ("/v1/predict", "/v1/heatmap"):
        post = described["paths"][path]["post"]
        assert set(post["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
        assert {"200", "400", "404", "413", "422", "503", "default"} == set(post["responses"])
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for routes in described["paths"].values():
        (route,) = routes.values()
        assert all(
            answer["content"]["application/json"] == problem
            for status, answer in route["responses"].items()
            if status != "200"
        )
    assert "rollout" in json.dumps(described["paths"]["/v1/heatmap"]["post"]["parameters"])


def test_the_page_is_small_and_asks_nothing_of_anybody_else(client: Client) -> None:
    total = 0
    for path, name in FILES.items():
        reply = client.get(path)
        assert reply.status == 200
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        total += len(reply.body)
        text = page_file(name).decode()
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)
        assert addresses in ([], ["http://www.w3.org/2000/svg"]), name  # the name of a format, not a place
    assert total < 200_000


# A real process


def start(*arguments: object, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """``vitreous serve`` as a process of its own, and the address it prints."""
    command = [sys.executable, "-m", "vitreous", "serve", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    assert process.stderr
    line = process.stderr.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stderr.read()
    return process, found[0]


def test_sigterm_finishes_what_is_under_way(runs: tuple[Path, Path]) -> None:
    process, address = start(runs[0], "--other", runs[1], "--port", 0)
    try:
        client = Client(int(address.rstrip("/").rsplit(":", 1)[1]))
        body = picture()
        assert client.ask("/v1/predict", body).status == 200
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as line:
            head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            line.sendall(head + body[:50])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            line.sendall(body[50:])
            assert line.recv(65536).startswith(b"HTTP/1.1 200 ")
        started = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - started < 10
    finally:
        process.kill()
        assert process.stderr
        left = process.stderr.read()
        process.stderr.close()
        process.wait()
    assert "Traceback" not in left


def test_a_model_that_takes_long_does_not_outlive_its_server(runs: tuple[Path, Path]) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from vitreous.serve import app, batcher, server\n"
        "app.answer = lambda questions: time.sleep(120)\n"
        "batcher.PATIENCE = server.DRAIN = 1\n"
        "server.serve([Path(sys.argv[1])], server.Door(port=0), ready=lambda address: print(address, flush=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(runs[1])], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        port = int(process.stdout.readline().strip().rstrip("/").rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
            body = picture()
            line.sendall(
                f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_command_refuses_what_it_cannot_serve(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, reason in [
            (["--host", "0.0.0.0"], "takes a token"),
            (["--host", "0.0.0.0", "--token", "short"], "a token of 5 characters"),
            (["--port", 70000], "port 70000 does not exist"),
            (["--port", taken.getsockname()[1]], "something listens there already"),
            (["--name", "http://a/"], "is no host name"),
            (["--other", tmp_path / "gone"], "is no classifier and no finished run"),
            (["--port", 0, "--host", "203.0.113.7", "--token", "x" * 20], "no address of this machine"),
        ]:
            outcome = call("serve", runs[0], *arguments)
            assert outcome.exit_code == 2, arguments
            assert reason in outcome.stderr


def test_a_missing_extra_is_named(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = call("serve", runs[0])
    assert outcome.exit_code == 2
    assert "pip install 'vitreous[serve]'" in outcome.stderr


def test_threads_end_with_the_server(runs: tuple[Path, Path]) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with serving(runs[1]) as client:
        client.ask("/v1/predict", picture())
    time.sleep(0.1)
    left = {thread.name for thread in threading.enumerate()} - before
    assert not [name for name in left if name.startswith(("model", "decoder"))]


@pytest.mark.parametrize("name", [*corpus.BAD, *corpus.GOOD])
def test_the_corpus_of_bad_files_uploaded_is_refused_or_answered(name: str, client: Client) -> None:
    data = {**corpus.BAD, **corpus.GOOD}[name]
    bare = client.ask("/v1/predict", data).status
    sent = client.form("/v1/predict", [(f'name="image"; filename="{name.encode("ascii", "replace").decode()}"', data)])
    if name in corpus.GOOD:
        assert (bare, sent.status) == (200, 200)
    else:
        assert bare in (400, 413, 422)
        assert sent.status in (400, 413, 422)
        assert len(sent.body) < 400
