"""What the tests of the server share: made-up runs, a server in a thread, and a client that can be rude."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from vitreous.classifier import Classifier
from vitreous.config import DataConfig, RunConfig
from vitreous.models import build_model
from vitreous.runs import prepare
from vitreous.vit import ViTConfig

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "‮desrever",
    "🐈" * 300,
)
"""Class names that a page must not believe."""


def make_run(folder: Path, classes: tuple[str, ...], source: str = "nowhere", **model: Any) -> Path:
    """A run folder with random weights that look somewhere, as training on ``source`` would have left it."""
    config = ViTConfig(**{"width": 16, "depth": 3, "heads": 2, "patch_size": 4, "classes": len(classes)} | model)
    torch.manual_seed(0)
    network = build_model(config).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    grey = config.channels == 1
    mean, std = ((0.3,), (0.4,)) if grey else ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    prepare(folder, RunConfig(data=DataConfig(source=source), model=config, steps=1), resume=False)
    Classifier(network, config, classes, mean, std).save(folder / "classifier")
    return folder


def digits_run(folder: Path) -> Path:
    """Of the embedded digits, so that there are sample pictures."""
    classes = tuple("0123456789")
    return make_run(folder, classes, "digits", image_size=8, patch_size=2, channels=1)


def picture(seed: int = 0, size: tuple[int, int] = (40, 24), kind: str = "PNG") -> bytes:
    """An encoded picture of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks over real connections, a new one each time."""

    port: int

    def __call__(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, bytes | None))
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, lower, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def ask(self, path: str, body: bytes, **headers: str) -> Reply:
        return self("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def form(self, path: str, parts: list[tuple[str, bytes]]) -> Reply:
        """Parts of a form: the parameters of its Content-Disposition, and its content."""
        lines = [
            b"--edge\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n"
            for head, content in parts
        ]
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        return self("POST", path, b"".join(lines) + b"--edge--\r\n", kind)


@contextmanager
def serving(*paths: Path, limits: Any = None, token: str | None = None, deadline: float = 10.0) -> Iterator[Client]:
    """A real server on a free port of this machine."""
    from functools import partial

    from vitreous.serve.app import Limits, build
    from vitreous.serve.engine import open_runs
    from vitreous.serve.samples import draw
    from vitreous.serve.server import listen, rules_for, server_for

    with listen("127.0.0.1", 0) as listener:
        app = build(
            open_runs(paths),
            rules_for("127.0.0.1", token),
            limits or Limits(deadline=deadline),
            partial(draw, paths[0]),
        )
        server = server_for(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Client(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
