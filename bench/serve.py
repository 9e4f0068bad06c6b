"""The server under load: seconds of a page's answer at 1 client, predictions/s at 50, seconds to start.

    python bench/serve.py runs/cifar10 --seconds 10 > serve.jsonl

The server runs as the process that ``vitreous serve`` is; the load comes from another process on the same cores, as
the goals have it. Clients keep their connection and send the next request when they have the answer. Pictures are
PNGs of the run's own size with random pixels, 64 of them in turn; every answer is compared with what the library says
of that picture, so a wrong one would be counted. Standard output: one JSON object with the provenance, then one a row.
Standard error: the same as a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PICTURES = 64
TOLERANCE = 1e-4
ROWS = [
    ("page answer", "/v1/heatmap?seen=true", 1),
    ("predictions", "/v1/predict", 1),
    ("predictions", "/v1/predict", 50),
]
GOALS = {("page answer", 1): "p95 under 30 ms", ("predictions", 50): "300 a second or more"}


def pictures(size: int) -> list[bytes]:
    """PNGs of random pixels."""
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(PICTURES):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
        encoded.append(file.getvalue())
    return encoded


def start(run: Path) -> tuple[subprocess.Popen[str], int]:
    """The server as a process, and its port."""
    command = [sys.executable, "-m", "vitreous", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    line = process.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
    if not found:
        raise SystemExit(f"error: the server did not start: {line}{process.stderr.read()}")
    return process, int(found[1])


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes, kind: str = "image/png"
) -> tuple[int, bytes, bytes]:
    """One request on a connection that is kept: status, head and body of the answer."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", answer)
    assert found
    return int(answer[9:12]), answer, await reader.readexactly(int(found[1]))


def right(answer: Any, truth: np.ndarray) -> bool:
    """Whether an answer of ours holds these logits."""
    return bool(np.allclose(np.array(answer["logits"]), truth, rtol=TOLERANCE, atol=TOLERANCE))


async def load(
    port: int,
    path: str,
    clients: int,
    seconds: float,
    bodies: list[bytes],
    truth: Any,
    kind: str = "image/png",
    right: Callable[[Any, Any], bool] = right,
) -> dict[str, Any]:
    """What so many clients get done, each asking as soon as it was answered."""
    times: list[float] = []
    statuses: dict[int, int] = {}
    wrong = 0
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal wrong
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while (started := time.perf_counter()) < end:
            status, _, answer = await ask(reader, writer, path, bodies[turn % PICTURES], kind)
            times.append(time.perf_counter() - started)
            statuses[status] = statuses.get(status, 0) + 1
            if status == 200:
                wrong += not right(json.loads(answer), truth[turn % PICTURES])
            turn += clients
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    elapsed = time.perf_counter() - started
    p50, p95, p99 = (float(np.quantile(times, share) * 1000) for share in (0.5, 0.95, 0.99))
    return {
        "answers": len(times),
        "per_second": statuses.get(200, 0) / elapsed,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "statuses": statuses,
        "wrong": wrong,
    }


def memory(process: subprocess.Popen[str]) -> float | None:
    """Resident MiB of the server, where the system tells."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None


def measure(run: Path, seconds: float) -> list[dict[str, Any]]:
    """Every row, one after the other, against one server."""
    from vitreous.classifier import Classifier

    classifier = Classifier.load(run)
    bodies = pictures(classifier.size)
    truth = [classifier.logits(classifier.read(body)[None])[0].numpy() for body in bodies]
    began = time.perf_counter()
    process, port = start(run)
    try:
        asyncio.run(load(port, "/v1/predict", 1, 0.01, bodies, truth))  # until there is one answer
        rows: list[dict[str, Any]] = [{"row": "start to first answer", "seconds": time.perf_counter() - began}]
        time.sleep(2)  # the samples are read in the background: that is no part of serving
        for name, path, clients in ROWS:
            asyncio.run(load(port, path, clients, 1.0, bodies, truth))
            found = asyncio.run(load(port, path, clients, seconds, bodies, truth))
            rows.append({"row": name, "clients": clients, **found, "server_mib": memory(process)})
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        f"Start to first answer: {rows[0]['seconds']:.1f} s (goal: 3 s to the interface).",
        "",
        "| | clients | answers/s | p50 ms | p95 ms | p99 ms | not 200 | wrong | server MiB | goal |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows[1:]:
        failed = row["answers"] - row["statuses"].get(200, 0)
        size = "-" if row["server_mib"] is None else f"{row['server_mib']:.0f}"
        lines.append(
            f"| {row['row']} | {row['clients']} | {row['per_second']:.0f} | {row['p50_ms']:.1f} | {row['p95_ms']:.1f} "
            f"| {row['p99_ms']:.1f} | {failed} | {row['wrong']} | {size} "
            f"| {GOALS.get((row['row'], row['clients']), '')} |"
        )
    return "\n".join(lines)


def main() -> None:
    from vitreous.device import hardware

    parser = argparse.ArgumentParser(description="The server under load.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    options = parser.parse_args()
    facts = {
        "bench": "serve",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": options.run.name,
        **hardware(),
        "load_average": os.getloadavg()[0],
    }
    rows = measure(options.run, options.seconds)
    for value in (facts, *rows):
        print(json.dumps(value))
    print("\n" + markdown(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
