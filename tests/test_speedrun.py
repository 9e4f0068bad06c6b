"""The speedrun's clock is honest: warming up leaves no trace, and what it prints is what was trained."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from vitreous.config import RunConfig, override
from vitreous.data import DataSet
from vitreous.state import Run

PATH = Path(__file__).parent.parent / "bench" / "speedrun.py"
spec = importlib.util.spec_from_file_location("speedrun", PATH)
assert spec
assert spec.loader
speedrun = importlib.util.module_from_spec(spec)
spec.loader.exec_module(speedrun)


def test_warming_up_leaves_the_run_as_new(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    config = override(tiny_run, {"model.stem": "conv", "phases": '[{"size": 4, "share": 1}, {"size": 8, "share": 1}]'})
    warm, cold = (Run(config, tmp_path, squares, time.monotonic()) for _ in range(2))
    assert speedrun.warm_up(warm) > 0
    for run in (warm, cold):
        run.model.train()
        while run.step < 8:
            run.advance(run.step / 8)
    for (name, one), other in zip(warm.model.state_dict().items(), cold.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_speedrun_prints_a_row_a_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--data digits --epochs 0.1 --seeds 0 1 --device cpu --no-compile --target 0.01 --set batch=32"
    monkeypatch.setattr(sys, "argv", ["speedrun.py", *arguments.split()])
    speedrun.main()
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["seed"] for row in rows] == [0, 1]
    assert all(row["reached"] and row["images"] == 4 * 32 for row in rows)
    assert "2 reached 1%" in said.err
