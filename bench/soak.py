"""The server for ten minutes, then at ten times what it takes on, then told to stop.

    python bench/soak.py runs/cifar10 --minutes 10 > soak.jsonl

50 clients ask as fast as they are answered: predictions, two kinds of heatmap, a picture cut short now and then, and a
new connection now and then. Every answer is compared with the library's, maps too. Then as many clients as the server
has places, then ten times as many, who begin at one moment and heed Retry-After: how soon a refusal comes, then and
after the first second, and what the server's memory grows to. Then SIGTERM while 50 clients wait: every request that
was sent must be answered. Standard output: one JSON object with the provenance, then one a stage. Standard error: a
line a minute, then sentences.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import serve

CLIENTS, TIMES = 50, 10
PATIENCE = 0.1
"""Seconds within which a refusal is to come."""
METHODS = ("attention", "rollout")
CUT = "cut short"
MIX = {"/v1/predict": 60, "/v1/heatmap?method=attention": 25, "/v1/heatmap?method=rollout": 10, CUT: 5}
"""Shares of what is asked."""


class Truth:
    """The pictures, and what the library says of each."""

    def __init__(self, run: Path) -> None:
        from vitreous.classifier import Classifier
        from vitreous.heatmaps import heat

        classifier = Classifier.load(run)
        self.pictures = serve.pictures(classifier.size)
        self.logits, self.maps = [], []
        for picture in self.pictures:
            pixels = classifier.read(picture)[None]
            self.logits.append(classifier.logits(pixels)[0].numpy())
            self.maps.append({method: heat(classifier, pixels, method)[0].numpy() for method in METHODS})

    def holds(self, number: int, answer: Any) -> bool:
        """Whether an answer about this picture is the library's."""
        same = serve.right(answer, self.logits[number])
        if "map" in answer:
            wanted = self.maps[number][answer["method"]]
            same = same and np.allclose(answer["map"], wanted, rtol=1e-3, atol=serve.TOLERANCE)
        return same


class Tally:
    """What came back: (kind, status) counted, wrong answers, and by status when was asked and seconds to the answer."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self.times: dict[int, list[tuple[float, float]]] = {}
        self.wrong = 0
        self.no_retry_after = 0

    def to_json(self) -> dict[str, Any]:
        first = min((asked for times in self.times.values() for asked, _ in times), default=0.0)
        return {
            "answers": sum(self.counts.values()),
            "by_kind": {f"{kind} {status}": count for (kind, status), count in sorted(self.counts.items())},
            "wrong": self.wrong,
            "no_retry_after": self.no_retry_after,
            "ms": {status: spread([taken for _, taken in times]) for status, times in self.times.items()},
            "ms_after_the_first_second": {
                status: spread(later)
                for status, times in self.times.items()
                if (later := [taken for asked, taken in times if asked > first + 1])
            },
        }


def spread(seconds: list[float]) -> dict[str, float]:
    """Quantiles in milliseconds, and the share of what came in time."""
    return {
        **{f"p{q}": float(np.percentile(seconds, q) * 1000) for q in (50, 95, 99)},
        "most": max(seconds) * 1000,
        "within_100_ms": float(np.mean(np.array(seconds) <= PATIENCE)),
    }


async def client(port: int, truth: Truth, tally: Tally, together: asyncio.Barrier, seconds: float, seed: int) -> None:
    """Asks from when all are connected, after a refusal only once it may."""
    chance = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await together.wait()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        (kind,) = chance.choices(list(MIX), list(MIX.values()))
        number = chance.randrange(serve.PICTURES)
        path, body = kind, truth.pictures[number]
        if kind == CUT:
            path, body = "/v1/predict", body[: len(body) // 2]
        started = time.monotonic()
        status, head, answer = await serve.ask(reader, writer, path, body)
        tally.times.setdefault(status, []).append((started, time.monotonic() - started))
        tally.counts[kind, status] += 1
        if status == 200:
            tally.wrong += not truth.holds(number, json.loads(answer))
        elif status == 503:
            wait = head.lower().partition(b"\r\nretry-after: ")[2].partition(b"\r\n")[0]
            tally.no_retry_after += not wait
            await asyncio.sleep(float(wait or 1))
        if chance.random() < 0.02:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def stage(process: Popen[str], port: int, truth: Truth, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients for so long; memory is looked at all the time."""
    tally, memory, together = Tally(), [serve.memory(process) or 0.0], asyncio.Barrier(clients)
    started = told = time.monotonic()
    asking = [asyncio.ensure_future(client(port, truth, tally, together, seconds, seed)) for seed in range(clients)]
    while not all(each.done() for each in asking):
        await asyncio.sleep(0.25)
        memory.append(serve.memory(process) or 0.0)
        if time.monotonic() > told + 60:
            told += 60
            print(
                f"{told - started:.0f} s: {sum(tally.counts.values())} answers, {memory[-1]:.0f} MiB", file=sys.stderr
            )
    await asyncio.gather(*asking)
    minutes = memory[:: max(1, len(memory) // 10)]
    return {
        "clients": clients,
        "seconds": time.monotonic() - started,
        **tally.to_json(),
        "most_mib": max(memory),
        "mib_on_the_way": [round(each, 1) for each in minutes],
        "load_average": os.getloadavg()[0],
    }


async def stop(process: Popen[str], port: int, truth: Truth) -> dict[str, Any]:
    """SIGTERM while every client waits for the answer to a heatmap."""
    lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CLIENTS)]
    asked = [
        asyncio.ensure_future(serve.ask(reader, writer, "/v1/heatmap", truth.pictures[i]))
        for i, (reader, writer) in enumerate(lines)
    ]
    await asyncio.sleep(0.05)  # sent, and hardly answered
    before = sum(each.done() for each in asked)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    answered, code = time.monotonic() - started, None
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            while (code := process.poll()) is None:
                await asyncio.sleep(0.05)
    right = sum(
        not isinstance(each, BaseException) and each[0] == 200 and truth.holds(i, json.loads(each[2]))
        for i, each in enumerate(answers)
    )
    facts = {"clients": CLIENTS, "waiting": CLIENTS - before, "answered_right": right, "answered_after_s": answered}
    return facts | {"exit_code": code, "seconds": time.monotonic() - started}


def measure(run: Path, minutes: float, overload: float) -> list[dict[str, Any]]:
    """Every stage, against one server."""
    from vitreous.serve.app import Limits

    truth = Truth(run)
    process, port = serve.start(run)
    try:
        rows = []
        for name, clients, seconds in [
            ("soak", CLIENTS, 60 * minutes),
            ("all places", Limits().places, overload),
            ("ten times the places", TIMES * Limits().places, overload),
            ("afterwards", 1, 2.0),
        ]:
            rows.append({"stage": name, **asyncio.run(stage(process, port, truth, clients, seconds))})
        rows.append({"stage": "stop", **asyncio.run(stop(process, port, truth))})
    finally:
        process.kill()
        process.wait()
    return rows


def sentences(rows: list[dict[str, Any]]) -> list[str]:
    """What came of what must hold."""
    soak, full, tenfold, _, stop = rows
    bad = {kind: n for kind, n in soak["by_kind"].items() if kind.split()[-1] != ("422" if CUT in kind else "200")}
    none = {"p50": 0.0, "p95": 0.0, "most": 0.0, "within_100_ms": 1.0}
    refusals, later = (tenfold[when].get(503, none) for when in ("ms", "ms_after_the_first_second"))
    return [
        f"soak: {soak['answers']} answers, {soak['wrong']} wrong, not as expected: {bad or 'none'}",
        f"memory on the way, MiB: {soak['mib_on_the_way']}",
        f"ten times the places: {tenfold['by_kind']}, {tenfold['wrong']} wrong, memory "
        f"{tenfold['most_mib'] / full['most_mib'] - 1:+.1%}",
        f"a refusal takes {refusals['p50']:.0f} ms (p95 {refusals['p95']:.0f}, most {refusals['most']:.0f}), "
        f"{refusals['within_100_ms']:.1%} within 100 ms, {tenfold['no_retry_after']} without Retry-After",
        f"one after the first second {later['p50']:.0f} ms (p95 {later['p95']:.0f}), "
        f"{later['within_100_ms']:.1%} within 100 ms",
        f"stop: {stop['answered_right']} of {stop['clients']} answered, exit code {stop['exit_code']} after "
        f"{stop['seconds']:.1f} s",
    ]


def main() -> None:
    from vitreous.device import hardware

    parser = argparse.ArgumentParser(description="The server for long, overloaded, and stopped.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--overload", type=float, default=30.0, help="seconds of each stage after the soak")
    options = parser.parse_args()
    facts = {
        "bench": "soak",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": options.run.name,
        **hardware(),
        "load_average": os.getloadavg()[0],
    }
    rows = measure(options.run, options.minutes, options.overload)
    for value in (facts, *rows):
        print(json.dumps(value))
    print("\n".join(sentences(rows)), file=sys.stderr)


if __name__ == "__main__":
    main()
