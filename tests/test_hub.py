"""A classifier goes to the hub and comes back the same, over HTTP, to and from a small hub on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_cli import TINY, call
from test_predict import photos, run  # noqa: F401

from vitreous.classifier import Classifier

ROOT = Path(__file__).parent.parent

# pytest finds fixtures by the names of a module's arguments
# ruff: noqa: F811


class Hub(ThreadingHTTPServer):
    """What of the hub's interface sending and fetching a model use. ``refusal`` is a status that it answers with."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.commits = 0
        self.refusal = 0


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def say(self, value: Any, status: int = 200, **headers: str) -> None:
        self.answer(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def do_POST(self) -> None:
        body, hub = self.rfile.read(int(self.headers["Content-Length"])), self.server
        if hub.refusal:
            self.say({"error": "no"}, hub.refusal)
        elif self.path == "/api/validate-yaml":
            self.say({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            wish = json.loads(body)
            hub.created.append(wish)
            name = f"{wish['organization']}/{wish['name']}" if wish.get("organization") else wish["name"]
            there = name in hub.files
            hub.files.setdefault(name, {})
            self.say({"url": f"{hub.url}/{name}"}, 409 if there else 200)
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self.say(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
            )
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            hub.commits += 1
            self.say({"success": True, "commitOid": "c" * 40, "commitUrl": f"{hub.url}/{name}/commit/{'c' * 40}"})
        else:
            self.say({"error": self.path}, 400)

    def do_GET(self) -> None:
        hub = self.server
        if self.path.startswith("/api/models/"):
            name, listing, _ = self.path.removeprefix("/api/models/").partition("/tree/")
            if listing:  # huggingface_hub from version 2 on lists the files apart
                files = hub.files[name].items()
                self.say([{"type": "file", "path": path, "size": len(file), "oid": "f" * 40} for path, file in files])
                return
            name, _, revision = self.path.removeprefix("/api/models/").partition("/revision/")
            if name not in hub.files:
                self.say({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            elif revision not in ("", "main", "c" * 40):
                self.say({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
            else:
                siblings = [{"rfilename": file} for file in hub.files[name]]
                self.say({"id": name, "modelId": name, "sha": "c" * 40, "siblings": siblings, "tags": []})
            return
        name, found, file = self.path.removeprefix("/").partition("/resolve/")
        if not found:
            self.say({"error": self.path}, 404)
            return
        content = hub.files[name][file.partition("/")[2]]
        tag = hashlib.sha256(content).hexdigest()
        self.answer(content, ETag=f'"{tag}"', X_Repo_Commit="c" * 40)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_HOME"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_the_test")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def secret(wish: dict[str, Any]) -> bool:
    """Whether a repository was asked for that only its owner sees, as huggingface_hub before 2 and since says it."""
    return wish.get("private") is True or wish.get("visibility") == "private"


def metadata(card: bytes) -> dict[str, Any]:
    """What stands between the first two lines of dashes."""
    return yaml.safe_load(card.decode().split("---")[1])


def test_what_was_sent_comes_back_the_same(
    hub: Hub, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = call("push", run, "somebody/compass", "--private", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert json.loads(outcome.stdout) == {"repository": "somebody/compass", "url": f"{hub.url}/somebody/compass"}
    assert secret(hub.created[0])
    assert hub.commits == 1  # all files at once
    assert set(hub.files["somebody/compass"]) == {"README.md", "config.json", "manifest.json", "model.safetensors"}
    mine, back = Classifier.load(run), Classifier.from_pretrained("somebody/compass")
    assert back.fingerprint() == mine.fingerprint()
    picture = photos / "001 good.jpg"
    said = [json.loads(call("predict", name, picture, "--json").stdout) for name in (run, "hf:somebody/compass")]
    assert said[0] == said[1]
    assert back.predict([picture]) == mine.predict([picture])
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["heatmap", "hf:somebody/compass", picture],
        ["search", "hf:somebody/compass", picture, "--in", photos],
    ):
        assert call(*arguments).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "heatmaps.png", "heatmaps.npy", "search.png"}


def test_the_card_tells_the_figures_and_keeps_what_a_person_wrote(hub: Hub, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call("train", "digits", "--out", run, *TINY).exit_code == 0
    tested = json.loads(call("eval", run, "--json").stdout)
    readme = run / "classifier" / "README.md"
    readme.write_text(
        readme.read_text().replace("---\n#", "license: cc0-1.0\ntags: [mine]\n---\n#", 1) + "\nMy words.\n"
    )
    assert call("push", run, "somebody/digits").exit_code == 0
    card = hub.files["somebody/digits"]["README.md"]
    facts = metadata(card)
    assert (facts["license"], facts["pipeline_tag"], facts["library_name"]) == (
        "cc0-1.0",
        "image-classification",
        "vitreous",
    )
    assert {"mine", "vitreous"} <= set(facts["tags"])
    (model,) = facts["model-index"]
    told = {result["dataset"]["split"]: result["metrics"][0]["value"] for result in model["results"]}
    kept = Classifier.load(run).provenance
    assert told == {"test": tested["accuracy"], "validation": kept["val_accuracy"]}
    assert b"My words." in card
    assert b'Classifier.from_pretrained("somebody/digits")' in card
    Classifier.load(run).push_to_hub("somebody/again")  # from memory: without a person's words, or a license
    assert "license" not in metadata(hub.files["somebody/again"]["README.md"])


def test_sending_again_is_another_commit_to_the_same_repository(hub: Hub, run: Path) -> None:
    classifier = Classifier.load(run)
    classifier.push_to_hub("somebody/compass")
    with torch.no_grad():
        classifier.model.head.weight.add_(1)  # type: ignore[operator, union-attr]
    classifier.push_to_hub("somebody/compass")
    assert hub.commits == 2
    assert Classifier.from_pretrained("somebody/compass").fingerprint() == classifier.fingerprint()


def test_nothing_but_the_named_files_leaves_or_comes(hub: Hub, run: Path, tmp_path: Path) -> None:
    call("push", run, "somebody/compass")
    hub.files["somebody/compass"] |= {"evil.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04."}
    Classifier.from_pretrained("somebody/compass")
    (snapshot,) = (tmp_path / "hub").glob("models--*/snapshots/*")
    assert {path.name for path in snapshot.iterdir()} == {"config.json", "manifest.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "hf auth login"), (403, "may not write there"), (404, "no such owner"), (500, "could not be sent")],
)
def test_a_refusal_says_what_to_do(status: int, said: str, hub: Hub, run: Path) -> None:
    hub.refusal = status
    outcome = call("push", run, "somebody/compass")
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 2


def test_without_a_network_it_says_so(hub: Hub, run: Path) -> None:
    hub.shutdown()
    hub.server_close()
    for arguments in (["push", run, "somebody/compass"], ["predict", "hf:somebody/compass", "x.png"]):
        outcome = call(*arguments)
        assert outcome.exit_code == 2
        assert "could not be" in outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["push", "nowhere", "somebody/compass"], "nowhere"),
        (["push", "RUN", "compass"], "write owner/name"),
        (["push", "RUN", "https://huggingface.co/somebody/compass"], "write owner/name"),
        (["predict", "hf:somebody/absent", "x.png"], "no such model"),
        (["predict", "hf:somebody", "x.png"], "write hf:owner/name"),
        (["eval", "hf:somebody/absent"], "no run folder"),
    ],
)
def test_wrong_names_are_one_line(arguments: list[str], said: str, hub: Hub, run: Path) -> None:
    outcome = call(*(run if word == "RUN" else word for word in arguments))
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 2
    assert hub.commits == 0


def test_a_revision_is_fetched_by_name(hub: Hub, run: Path) -> None:
    call("push", run, "somebody/compass")
    assert Classifier.from_pretrained(f"somebody/compass@{'c' * 40}").classes == Classifier.load(run).classes
    with pytest.raises(ValueError, match="no such revision"):
        Classifier.from_pretrained("somebody/compass@v9")


def test_what_the_page_says_runs(hub: Hub, workplace: Path) -> None:
    page = (ROOT / "docs" / "habits.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("vitreous") and "owner/pets" in line]
    assert len(lines) == 2
    for words in (["train", "pets", "--out", "runs/pets", *TINY], *(shlex.split(line)[1:] for line in lines)):
        outcome = call(*words)
        assert outcome.exit_code == 0, outcome.stderr
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    exec(code, {})
    assert secret(hub.created[-1])
