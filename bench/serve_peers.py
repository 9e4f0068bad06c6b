"""Predictions/s of our server and of servers as they are usually written around timm and transformers.

    python bench/serve_peers.py --peers-python DIR/bin/python --seconds 5 --rounds 3 > serve_peers.jsonl

All serve the same weights, a Vision Transformer of width 128 with 4 blocks at 32 pixels, which ``vitreous export``
wrote for the other two. Theirs is FastAPI with one forward pass a request, each library used as its documentation does:
timm with ``create_model`` and ``create_transform``, transformers with a ``pipeline``; a form with one file, answered by
``def`` in a pool of threads or by ``async def`` one after the other. All stand at once, one is loaded at a time, and
the order is the same in every round, so that a slow minute of the machine hits all. Every first class is compared with
the library's. Standard output: one JSON object with the provenance, then one a row. Standard error: a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import serve
from throughput import import_torchvision_stub

Ranked = list[dict[str, Any]]
SERVERS = [("vitreous", ""), ("timm", "threads"), ("timm", "loop"), ("huggingface", "threads"), ("huggingface", "loop")]
CLIENTS = (1, 50)


def timm_answers(folder: Path) -> Callable[[Any], Ranked]:
    """A picture of Pillow's -> the five most probable classes."""
    import timm
    import torch

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = timm.create_model(
        config["architecture"],
        checkpoint_path=folder / "model.safetensors",
        num_classes=config["num_classes"],
        **config["model_args"],
    ).eval()
    facts = timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"])
    transform = timm.data.create_transform(**facts, is_training=False)

    @torch.inference_mode()
    def answers(picture: Any) -> Ranked:
        shares, places = model(transform(picture)[None])[0].softmax(-1).topk(5)
        names = config["label_names"]
        return [{"label": names[i], "score": s} for s, i in zip(shares.tolist(), places.tolist(), strict=True)]

    return answers


def huggingface_answers(folder: Path) -> Callable[[Any], Ranked]:
    """A picture of Pillow's -> the five most probable classes."""
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(folder))

    def answers(picture: Any) -> Ranked:
        found: Ranked = classify(picture, top_k=5)
        return found

    return answers


LIBRARIES = {"timm": timm_answers, "huggingface": huggingface_answers}


def answer_for_ever(library: str, way: str, folder: Path, port: int) -> None:
    """The server as it is usually written."""
    import uvicorn
    from fastapi import FastAPI, UploadFile
    from PIL import Image

    import_torchvision_stub()
    answers = LIBRARIES[library](folder)
    app = FastAPI()

    def predict(image):  # type: ignore[no-untyped-def]
        return answers(Image.open(image.file).convert("RGB"))

    async def predict_in_the_loop(image):  # type: ignore[no-untyped-def]
        return predict(image)

    for function in (predict, predict_in_the_loop):
        function.__annotations__["image"] = UploadFile  # as text FastAPI would look it up where it is not imported
    app.post("/predict")(predict if way == "threads" else predict_in_the_loop)
    uvicorn.run(app, port=port, log_level="warning")


def classifier() -> Any:
    """Made up, with scores that differ from picture to picture."""
    import torch

    from vitreous.classifier import Classifier
    from vitreous.vit import ViT, ViTConfig

    torch.manual_seed(0)
    config = ViTConfig(image_size=32, patch_size=4, width=128, depth=4, heads=4, classes=10)
    model = ViT(config).eval()
    torch.nn.init.normal_(model.head.weight)
    return Classifier(model, config, tuple("abcdefghij"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@contextlib.contextmanager
def started(folder: Path, python: str) -> Iterator[dict[tuple[str, str], tuple[subprocess.Popen[str], int]]]:
    """Every server with its port, once it answers."""
    running: dict[tuple[str, str], tuple[subprocess.Popen[str], int]] = {}
    try:
        for library, way in SERVERS:
            if library == "vitreous":
                running[library, way] = serve.start(folder / "vitreous")
                continue
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            command = [python, __file__, "--answer", library, way, str(folder / library), str(port)]
            running[library, way] = subprocess.Popen(command, text=True), port
            _wait_for(port)
        yield running
    finally:
        for process, _ in running.values():
            process.send_signal(signal.SIGTERM)
        for process, _ in running.values():
            process.wait(60)


def _wait_for(port: int, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit(f"error: nothing listens on port {port} after {seconds:g} s") from None
            time.sleep(0.5)


def form(picture: bytes) -> bytes:
    """The picture as the only file of a form."""
    head = (
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    return head + picture + b"\r\n--edge--\r\n"


def ranked(answer: Any, truth: str) -> bool:
    """Whether an answer of theirs puts this class first."""
    return bool(answer[0]["label"] == truth)


def labelled(answer: Any, truth: str) -> bool:
    """Whether an answer of ours does."""
    return bool(answer["label"] == truth)


def measure(python: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """A row a server and number of clients: medians over the rounds."""
    from vitreous.export.folders import write_huggingface, write_timm

    one = classifier()
    pictures = serve.pictures(one.size)
    truth = [one.predict([picture])[0].label for picture in pictures]
    forms = [form(picture) for picture in pictures]
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        one.save(folder / "vitreous")
        write_timm(one, folder / "timm")
        write_huggingface(one, folder / "huggingface")
        with started(folder, python) as running:
            for number in range(rounds + 1):
                for (library, way), (process, port) in running.items():
                    for clients in CLIENTS:
                        length = seconds if number else 1.0  # the first round warms up
                        if library == "vitreous":
                            work = serve.load(port, "/v1/predict", clients, length, pictures, truth, right=labelled)
                        else:
                            kind = "multipart/form-data; boundary=edge"
                            work = serve.load(port, "/predict", clients, length, forms, truth, kind, ranked)
                        row = asyncio.run(work) | {"server_mib": serve.memory(process)}
                        if number:
                            found.setdefault((library, way, clients), []).append(row)
    return [
        {
            "server": library,
            "way": way,
            "clients": clients,
            "rounds": rounds,
            **{key: statistics.median(row[key] for row in rows) for key in ("per_second", "p50_ms", "p95_ms")},
            "server_mib": max(row["server_mib"] or 0 for row in rows),
            "not_200": sum(row["answers"] - row["statuses"].get(200, 0) for row in rows),
            "wrong": sum(row["wrong"] for row in rows),
        }
        for (library, way, clients), rows in found.items()
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        "| server | clients | answers/s | p50 ms | p95 ms | MiB | not 200 | wrong |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['server']} {row['way']} | {row['clients']} | {row['per_second']:.0f} | {row['p50_ms']:.1f} "
            f"| {row['p95_ms']:.1f} | {row['server_mib']:.0f} | {row['not_200']} | {row['wrong']} |"
        )
    return "\n".join(lines)


def main() -> None:
    from vitreous.device import hardware

    parser = argparse.ArgumentParser(description="Our server beside servers around timm and transformers.")
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter that has both, and fastapi")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row in each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    rows = measure(options.peers_python, options.seconds, options.rounds)
    facts = {
        "bench": "serve_peers",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **hardware(),
        "load_average": load_before,
    }
    for value in (facts, *rows):
        print(json.dumps(value))
    print("\n" + markdown(rows), file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer_for_ever(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
