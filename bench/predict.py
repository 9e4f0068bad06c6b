"""Predicting a folder of JPEG files: Vitreous beside the loops that people write with timm and transformers.

    python bench/predict.py FOLDER --peers-python DIR/bin/python > predict.jsonl

FOLDER holds JPEG files of 32 x 32 pixels (``--cifar PARQUET`` writes those of a split there first). The model is the
nano shape with the plain stem (width 128, 4 blocks, 4 heads, patch 4, 10 classes, fp32) with random weights in all:
what is measured is reading, decoding and batching around it, and memory as the folder grows. Every row is a process of
its own; rows come one after the other in every round. Seconds count from the first name to the last row written, so
importing and loading are left out. CPU milliseconds a picture are of all threads and processes, and tell more than
seconds where the machine is shared.

- ``vitreous``: ``vitreous predict RUN FOLDER --out predictions.parquet``, as a function.
- ``one by one``: ``Classifier.predict`` of one file after the other.
- ``timm``: its inference transform behind a ``DataLoader`` of 2 workers and batches of 64; nothing is written.
- ``transformers``: ``pipeline("image-classification")`` over the paths in batches of 64; nothing is written.

Standard output: one JSON object with the provenance, then one a row. Standard error: a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {"width": 128, "depth": 4, "heads": 4}
SIDE, PATCH, CLASSES, BATCH = 32, 4, 10, 64


def classifier() -> Any:
    """Random weights of the shape, beside the usual preprocessing."""
    from vitreous.classifier import Classifier
    from vitreous.vit import ViT, ViTConfig

    config = ViTConfig(image_size=SIDE, patch_size=PATCH, classes=CLASSES, **SHAPE)
    names = tuple(f"class {number}" for number in range(CLASSES))
    return Classifier(ViT(config).eval(), config, names, (0.5,) * 3, (0.25,) * 3)


def vitreous(paths: list[str], out: Path) -> Callable[[], int]:
    from vitreous.predict import predict_files

    ready = classifier()
    listing = out / "paths.txt"
    listing.write_text("\n".join(paths), encoding="utf-8")
    return lambda: predict_files(ready, [str(listing)], out / "predictions.parquet").n


def one_by_one(paths: list[str], out: Path) -> Callable[[], int]:
    ready = classifier()
    return lambda: len([ready.predict([path]) for path in paths])


def timm(paths: list[str], out: Path) -> Callable[[], int]:
    import torch
    from PIL import Image
    from throughput import import_torchvision_stub

    import_torchvision_stub()
    from timm.data import create_transform
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=SHAPE["width"],
        depth=SHAPE["depth"],
        num_heads=SHAPE["heads"],
        num_classes=CLASSES,
    ).eval()
    transform = create_transform((3, SIDE, SIDE), is_training=False, crop_pct=1.0)

    class Files(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(paths[index]).convert("RGB"))

    def work() -> int:
        done = 0
        with torch.no_grad():
            for images in torch.utils.data.DataLoader(Files(), BATCH, num_workers=2):
                done += len(model(images).softmax(dim=1).topk(5).values)
        return done

    return work


def transformers(paths: list[str], out: Path) -> Callable[[], int]:
    from throughput import import_torchvision_stub

    import_torchvision_stub()
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

    config = ViTConfig(
        hidden_size=SHAPE["width"],
        num_hidden_layers=SHAPE["depth"],
        num_attention_heads=SHAPE["heads"],
        intermediate_size=4 * SHAPE["width"],
        image_size=SIDE,
        patch_size=PATCH,
        num_labels=CLASSES,
    )
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    model = ViTForImageClassification(config).eval()
    ready = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    return lambda: sum(1 for _ in ready((path for path in paths), batch_size=BATCH, top_k=5))


WAYS = {"vitreous": vitreous, "one by one": one_by_one, "timm": timm, "transformers": transformers}
PEERS = ("timm", "transformers")


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_mib() -> float:
    """The most resident memory this process has had, MiB (Linux)."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def work(way: str, folder: Path, count: int) -> dict[str, Any]:
    """One row."""
    paths = sorted(str(path) for path in folder.glob("*.jpg"))[:count]
    with tempfile.TemporaryDirectory() as out:
        ready = WAYS[way](paths, Path(out))
        cpu, started = cpu_seconds(), time.perf_counter()
        done = ready()
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    assert done == len(paths), (done, len(paths))
    return {
        "way": way,
        "pictures": done,
        "seconds": round(seconds, 2),
        "cpu_ms_a_picture": round(1000 * cpu / done, 3),
        "peak_mib": round(peak_mib()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cifar", type=Path, help="a Parquet file whose pictures are written into FOLDER first")
    parser.add_argument("--counts", default="1000,10000", help="how many pictures, separated by commas")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers-python", default=sys.executable, help="the interpreter that has timm and transformers")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        print(json.dumps(work(asked.row[0], asked.folder, int(asked.row[1]))))
        return
    if asked.cifar:
        import pyarrow.parquet as pq

        asked.folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pq.read_table(asked.cifar, columns=["img"])["img"].to_pylist()):
            (asked.folder / f"{number:05d}.jpg").write_bytes(picture["bytes"])
    from vitreous.device import hardware

    print(json.dumps({"bench": "predict", "load": os.getloadavg()[0], **hardware()}), flush=True)
    rows: list[dict[str, Any]] = []
    for _ in range(asked.rounds):
        for count in asked.counts.split(","):
            for way in asked.ways.split(","):
                python = asked.peers_python if way in PEERS else sys.executable
                command = [python, __file__, str(asked.folder), "--row", way, count]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(json.dumps(rows[-1]), flush=True)
    print("| way | pictures | images/s | CPU ms a picture | peak MiB |\n|---|---:|---:|---:|---:|", file=sys.stderr)
    for count in asked.counts.split(","):
        for way in asked.ways.split(","):
            mine = [row for row in rows if row["way"] == way and row["pictures"] == int(count)]
            rate = statistics.median(row["pictures"] / row["seconds"] for row in mine)
            cpu = statistics.median(row["cpu_ms_a_picture"] for row in mine)
            peak = max(row["peak_mib"] for row in mine)
            print(f"| {way} | {int(count):,} | {rate:,.0f} | {cpu:.2f} | {peak} |", file=sys.stderr)


if __name__ == "__main__":
    main()
