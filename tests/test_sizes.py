"""Multi-resolution training: every size gets its turn, by the seed alone, and a resumed run repeats to the bit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch

from vitreous import train as training
from vitreous.batches import Batches
from vitreous.config import RunConfig, from_json, override, to_json
from vitreous.data import DataSet
from vitreous.recipes import Wish, plan, sizes_around
from vitreous.train import train
from vitreous.vit import ViTConfig


def test_each_size_gets_about_the_same_share_of_the_pixels(squares: DataSet, tiny_run: RunConfig) -> None:
    assert squares.train is not None
    batches = Batches(squares.train, dataclasses.replace(tiny_run, sizes=(4, 8, 16)))
    drawn = Counter(batches.side(step, 0.5) for step in range(2000))
    work = [drawn[size] * size**2 for size in (4, 8, 16)]
    assert max(work) < 1.4 * min(work)
    assert [batches.side(step, 0.1) for step in range(20)] == [batches.side(step, 0.9) for step in range(20)]
    other = Batches(squares.train, dataclasses.replace(tiny_run, sizes=(4, 8, 16), seed=1))
    assert [batches.side(step, 0) for step in range(20)] != [other.side(step, 0) for step in range(20)]


def test_a_resumed_run_repeats_its_sizes_and_weights(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_run, sizes=(4, 8, 12))
    whole = train(config, tmp_path / "whole", squares)

    class Killed(Exception):
        pass

    def die(progress: training.Progress) -> None:
        if progress.phase == "train" and progress.step == 17:
            raise Killed

    monkeypatch.setattr("vitreous.saving.Saver.due", lambda *_, **__: True)
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", squares, watch=die)
    resumed = train(config, tmp_path / "killed", squares, resume=True)
    pairs = zip(whole.classifier.model.state_dict().items(), resumed.classifier.model.state_dict().items(), strict=True)
    for (name, one), (_, other) in pairs:
        assert torch.equal(one, other), name


def test_the_recipe_says_its_sizes(squares: DataSet) -> None:
    config, notes = plan(Wish("squares", steps=5, any_size=True), squares)
    assert config.sizes and not config.phases and config.recipe.endswith("any-size")
    assert any("several picture sizes" in note for note in notes)
    assert from_json(to_json(config)) == config
    assert isinstance(config.model, ViTConfig) and config.model.stem_norm == "picture"
    assert sizes_around(32, 4) == (24, 32, 40, 48, 64)
    assert sizes_around(8, 8) == (8, 16)


def test_sizes_that_cannot_be_are_refused(tiny_run: RunConfig) -> None:
    with pytest.raises(ValueError, match="pictures of 6 pixels are no multiple of the patch, 4"):
        override(tiny_run, {"sizes": "[4, 6]"})
    with pytest.raises(ValueError, match=r"sizes and phases both.*phases=\[\]"):
        override(tiny_run, {"sizes": "[4]", "phases": '[{"size": 8, "share": 1}]'})
