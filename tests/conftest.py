"""Small pictures that a model can learn in seconds, and a config that does so."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from coloured import coloured_squares
from PIL import Image

from vitreous.augment import AugmentConfig
from vitreous.config import RunConfig
from vitreous.data import DataSet
from vitreous.vit import ViTConfig


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("sample", "full"),
        default="sample",
        help="sample: half a minute of tests/faults; full: all of it, many child processes",
    )
    parser.addoption("--screenshots", type=Path, help="keep what the tests photograph of the pages in this folder")
    parser.addoption("--run", type=Path, help="whose page they photograph, a run on pictures; else one of the digits")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: a fault that only --faults full brings about")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--faults") == "full":
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests have tiny tensors: more threads cost more than they bring, and results must not depend on them."""
    torch.set_num_threads(1)


@pytest.fixture
def squares() -> DataSet:
    return DataSet("squares", coloured_squares(128), coloured_squares(32, seed=1), coloured_squares(32, seed=2))


@pytest.fixture
def tiny_model() -> ViTConfig:
    return ViTConfig(image_size=8, patch_size=4, classes=4, width=16, depth=2, heads=2)


@pytest.fixture
def tiny_run(tiny_model: ViTConfig) -> RunConfig:
    """Thirty steps in well under a second; no flip, which would swap the classes."""
    return RunConfig(
        model=tiny_model,
        augment=AugmentConfig(flip=False, shift=0.0),
        steps=30,
        batch=16,
        evaluations=2,
        precision="fp32",
        attention="explicit",
        device="cpu",
    )


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with pictures of one's own, and a made-up CIFAR-10 where named sets are looked for."""
    random = np.random.default_rng(0)
    pictures = iter(random.integers(0, 256, (90, 32, 32, 3), dtype=np.uint8))
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(next(pictures)).save(tmp_path / "pets" / name / f"{number}.png")
    for name in ("new-picture.jpg", "picture.png"):
        Image.fromarray(next(pictures)).save(tmp_path / name)
    rows = [f"pets/{name}/{number}.png,{name}" for name in ("cat", "dog") for number in range(10)]
    (tmp_path / "pets.csv").write_text("\n".join(["path,label", *rows]))
    (tmp_path / "elsewhere").symlink_to(".")  # where pets.csv could be seen from as well
    (tmp_path / "list.txt").write_text("pets/cat/0.png\npets/dog/1.png\n")
    (tmp_path / "sets" / "cifar10").mkdir(parents=True)
    for split, count in (("train", 40), ("test", 20)):
        encoded = []
        for _ in range(count):
            file = io.BytesIO()
            Image.fromarray(next(pictures)).save(file, "PNG")
            encoded.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({"img": encoded, "label": [i % 10 for i in range(count)]})
        pq.write_table(table, tmp_path / "sets" / "cifar10" / f"{split}-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITREOUS_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of this name cannot be listed, by root neither."""

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return unhindered(path)

    unhindered = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
