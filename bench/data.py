"""From a folder of JPEGs to batches of pixels: Vitreous, Hugging Face's `datasets`, and a loop over files with Pillow.

    python bench/data.py DATA --peers-python DIR/bin/python [--count 60000] [--rounds 3] > data.jsonl

DATA is a folder with Hugging Face style parquet of JPEGs (CIFAR-10's 60,000), which are written out as a folder per
class first; all ways read that folder. A way is asked twice in every round, in a new process each time: the first time
whatever it keeps is gone, the second time it is there. `start` is how long it takes, imports aside, until the first
batch of 128 could be had; `pass` is one pass over all pictures in random order, as uint8 arrays in batches of 128;
`epoch_2` is another pass in the same process; `cpu` is processor time of start and first pass, worker processes
included. Ways:

- vitreous: `vitreous.load`, and rows of its pixels.
- vitreous, batch by batch: the same where neither the cache nor memory has room for what comes out of decoding.
- datasets: `load_dataset("imagefolder")`, and rows of it with Pillow's pictures made arrays.
- pillow: files listed by class; each opened, converted and made an array when its turn comes.
- pillow, 2 processes: the same under torch's DataLoader with two workers.

With `--side` pictures are enlarged to so many pixels before they are written, and every way makes them `--size` again:
ours as it always does, the others with Pillow's bicubic resize. The system's own cache of files is warm throughout.
Rounds are interleaved, so that a slow minute hits all of them.

Standard output: one JSON object with the provenance, then one a way. Standard error: the same as a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BATCH = 128
WAYS = ("vitreous", "vitreous, batch by batch", "datasets", "pillow", "pillow, 2 processes")
ALONE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""What every way runs under: `datasets` would ask the hub about a folder, and wait where there is no network."""


def order(count: int) -> list[list[int]]:
    """All places in random order, a batch at a time."""
    import numpy as np

    places = np.random.default_rng(0).permutation(count)
    return [places[start : start + BATCH].tolist() for start in range(0, count, BATCH)]


def vitreous_way(folder: Path, kept: Path, size: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    import torch

    from vitreous.data import load

    train = load(folder, val_fraction=0, cache=kept, size=size).train
    assert train is not None

    def batches() -> Iterator[Any]:
        for places in order(len(train)):
            yield train.pixels[torch.tensor(places)]

    return len(train), batches


def streamed_way(folder: Path, kept: Path, size: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    import torch

    from vitreous.data import Mapped, load
    from vitreous.data import pixels as decoding

    os.environ["VITREOUS_CACHE_GB"] = "0.01"  # room for what is known about the pictures alone
    decoding.memory = lambda: 1
    train = load(folder, val_fraction=0, cache=kept, size=size).train
    assert train is not None and isinstance(train.pixels, Mapped) and train.pixels.stream is not None
    decoded = train.pixels

    def batches() -> Iterator[Any]:
        ordered = [torch.tensor(places) for places in order(len(train))]
        for places, following in zip(ordered, [*ordered[1:], None], strict=True):
            read = decoded[places]
            if following is not None:
                decoded.ahead(following)
            yield read

    return len(train), batches


def datasets_way(folder: Path, kept: Path, size: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    import datasets
    import numpy as np

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(kept), split="train")

    def batches() -> Iterator[Any]:
        for places in order(len(rows)):
            yield np.stack([pixels(picture, size) for picture in rows[places]["image"]])

    return len(rows), batches


def pixels(picture: Any, size: int) -> Any:
    """A picture of Pillow's as an array (size, size, 3)."""
    import numpy as np
    from PIL import Image

    picture = picture.convert("RGB")
    return np.asarray(
        picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BICUBIC)
    )


def listed(folder: Path) -> list[tuple[str, int]]:
    """Files and class numbers, as torchvision's ImageFolder finds them."""
    found = []
    for number, label in enumerate(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())):
        for root, _, names in sorted(os.walk(folder / label, followlinks=True)):
            found += [(os.path.join(root, name), number) for name in sorted(names)]
    return found


class Files:
    """Pictures from files, one at a time."""

    def __init__(self, folder: Path, size: int) -> None:
        self.files, self.size = listed(folder), size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Any:
        from PIL import Image

        with open(self.files[place][0], "rb") as stream:
            return pixels(Image.open(stream), self.size)


def pillow_way(folder: Path, kept: Path, size: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    import numpy as np

    files = Files(folder, size)

    def batches() -> Iterator[Any]:
        for places in order(len(files)):
            yield np.stack([files[place] for place in places])

    return len(files), batches


def workers_way(folder: Path, kept: Path, size: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    import numpy as np
    from torch.utils.data import DataLoader

    files = Files(folder, size)
    loader: DataLoader[Any] = DataLoader(files, batch_sampler=order(len(files)), num_workers=2, collate_fn=np.stack)  # type: ignore[arg-type]
    return len(files), lambda: iter(loader)


MADE = dict(zip(WAYS, (vitreous_way, streamed_way, datasets_way, pillow_way, workers_way), strict=True))


def work(way: str, folder: Path, kept: Path, size: int) -> dict[str, float]:
    """One start and two passes, in this process."""
    import torch

    torch.set_num_threads(1)
    if way == "datasets":
        import datasets  # noqa: F401
    if way.startswith("vitreous"):
        import vitreous.data  # noqa: F401
    begun, used = time.perf_counter(), sum(os.times()[:4])
    count, batches = MADE[way](folder, kept, size)
    next(batches())
    started = time.perf_counter()
    seen = sum(len(batch) for batch in batches())
    ended, used = time.perf_counter(), sum(os.times()[:4]) - used
    seen_again = sum(len(batch) for batch in batches())
    again = time.perf_counter() - ended
    assert seen == seen_again == count, (seen, seen_again, count)
    return {"start": started - begun, "pass": ended - started, "epoch_2": again, "cpu": used, "count": count}


def write_folder(data: Path, count: int, folder: Path, side: int | None = None) -> None:
    """The pictures of parquet files as one file each, a folder per class; enlarged to ``side`` where that is given."""
    import pyarrow.parquet as pq
    from PIL import Image

    number = 0
    for path in sorted(data.rglob("*.parquet")):
        table = pq.read_table(path)
        pictures = table.column(0).combine_chunks().field("bytes")
        for picture, label in zip(pictures, table.column(1), strict=True):
            if number == count:
                return
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            path = folder / str(label) / f"{number:06}.jpg"
            path.write_bytes(picture.as_py())
            if side is not None:
                Image.open(path).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
            number += 1


def measure(options: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    """Every way in every round, first and second time."""
    folder = place / "pictures"
    found: dict[tuple[str, str], list[dict[str, float]]] = {
        (way, when): [] for way in options.ways for when in ("first", "second")
    }
    write_folder(options.data, options.count, folder, options.side)
    for number in range(options.rounds):
        for way in options.ways:
            kept = place / "kept"
            shutil.rmtree(kept, ignore_errors=True)
            for when in ("first", "second"):
                python = options.peers_python if way == "datasets" else sys.executable
                command = [
                    python,
                    __file__,
                    str(folder),
                    "--work",
                    way,
                    "--kept",
                    str(kept),
                    "--size",
                    str(options.size),
                ]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ALONE)
                found[way, when].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1}: {way}, {when}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    rows = []
    for (way, when), times in found.items():
        row: dict[str, Any] = {"way": way, "time": when, "count": times[0]["count"]}
        for name in ("start", "pass", "epoch_2", "cpu"):
            row[name] = statistics.median(each[name] for each in times)
            row[f"{name}_rounds"] = [round(each[name], 3) for each in times]
        rows.append(row | {"images_a_second": row["count"] / row["pass"]})
    return rows


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        f"{facts['count']:,} JPEGs of {facts['side']} pixels, made {facts['size']}; {facts['cpu']}, "
        f"load {facts['load_average']:.1f} at the start, {facts['rounds']} rounds, {facts['date']}",
        "",
        "| way | time | start, s | a pass, s | images/s in the pass | start and pass, s | CPU, s | second epoch, s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['way']} | {row['time']} | {row['start']:.2f} | {row['pass']:.2f} | {row['images_a_second']:,.0f} "
        f"| {row['start'] + row['pass']:.2f} | {row['cpu']:.1f} | {row['epoch_2']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with parquet files of JPEGs")
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter that has datasets")
    parser.add_argument("--count", type=int, default=60_000, help="pictures")
    parser.add_argument("--side", type=int, help="pixels to which the pictures are enlarged first")
    parser.add_argument("--size", type=int, default=32, help="pixels that every way makes of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--work", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.work, options.data, options.kept, options.size)))
        return
    from vitreous.device import hardware

    facts: dict[str, Any] = {
        "bench": "data",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": options.rounds,
        "side": options.side or options.size,
        "size": options.size,
        **hardware(),
        "load_average": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as place:
        rows = measure(options, Path(place))
    facts["count"] = rows[0]["count"]
    print("\n".join(json.dumps(each) for each in [facts, *rows]))
    print(markdown(facts, rows), file=sys.stderr)


if __name__ == "__main__":
    main()
