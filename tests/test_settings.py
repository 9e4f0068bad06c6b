"""A file of settings says what --set says; the command line comes first; what is no setting is named with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import NO_PROBE, SMALL, call
from test_recipes import pictures

from vitreous.cnn import CNNConfig
from vitreous.config import RunConfig, override, to_json
from vitreous.jobs import beside_file
from vitreous.recipes import Wish, plan
from vitreous.runs import changes as differing
from vitreous.runs import read_config
from vitreous.settings import combine, read_settings
from vitreous.vit import ViTConfig

NOTHING = dict.fromkeys(
    "size stem model teacher weights freeze probe any_size budget epochs steps seed device".split()  # noqa: SIM905
)


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_nested_and_by_path_mean_the_same(tmp_path: Path) -> None:
    nested = "batch: 64\noptim:\n  lr: 1e-3  # a comment\n  warmup: 0.1\nphases: [{size: 16, share: 1.0}]\n"
    by_path = 'optim.lr: 0.001\noptim.warmup: 0.1\nbatch: 64\nphases: [{"size": 16, "share": 1e0}]\n'
    same = read_settings(written(tmp_path, nested))
    assert (
        same
        == read_settings(written(tmp_path, by_path))
        == read_settings(written(tmp_path, json.dumps(same, indent="\t"), "run.json"))
    )
    assert same == {"batch": 64, "optim.lr": 0.001, "optim.warmup": 0.1, "phases": [{"size": 16, "share": 1.0}]}


def test_a_config_json_gives_back_the_whole_run(tmp_path: Path) -> None:
    config = override(RunConfig(budget=60.0), {"optim.lr": "1e-05", "model.stem": "conv", "batch": "32", "seed": "3"})
    options, changes = combine(NOTHING, read_settings(written(tmp_path, to_json(config), "config.json")))
    assert (options["budget"], options["seed"], options["model"]) == (60.0, 3, "vit")
    assert override(RunConfig(budget=60.0, seed=3), changes) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch: 64\noptim:\n  lrr: 1\n", "run.yaml, line 3: unknown setting 'optim.lrr': did you mean 'optim.lr'"),
        ("bacth: 64\n", "line 1: unknown setting 'bacth': did you mean 'batch'"),
        ("optim: 3\n", "line 1: unknown setting 'optim'"),
        ("batch: many\n", "line 1: batch is 'many': it must be int, not str"),
        ("batch: 64\nseed: 1\nbatch: 32\n", "line 3: batch is given twice"),
        ("seed: [1, 2]\n", "line 1: seed is"),
        ("phases: 3\n", "line 1: phases is 3: it must be a list"),
        ("- batch\n", "holds no settings"),
        ("", "holds no settings"),
        ("batch: [64\n", "is no YAML"),
        ("format: 99\n", "line 1: format 99"),
        ("batch: !!python/object/apply:os.system ['echo']\n", "is no YAML"),
    ],
)
def test_what_is_no_setting_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.yaml") as caught:
        read_settings(written(tmp_path, text))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "values", "option", "left"),
    [
        ({}, {"budget": "5m"}, ("budget", "5m"), {}),
        ({"steps": 3}, {"budget": "5m"}, ("budget", None), {}),
        ({"seed": 0}, {"seed": 7}, ("seed", 0), {}),
        ({}, {"device": "cpu"}, ("device", "cpu"), {}),
        ({}, {"model.family": "resnet", "model.depth": 2}, ("model", "resnet"), {"model.depth": "2"}),
        ({"model": "fastcnn"}, {"model.family": "resnet", "model.depth": 2}, ("model", "fastcnn"), {}),
        ({"size": "tiny"}, {"model.depth": 2, "model.registers": 4}, ("size", "tiny"), {"model.registers": "4"}),
        ({"stem": "patch"}, {"model.stem": "conv", "batch": 8}, ("stem", "patch"), {"batch": "8"}),
        ({"stem": "patch"}, {"model.depth": 2, "phases": []}, ("size", None), {"model.depth": "2", "phases": "[]"}),
        ({"any_size": True}, {"phases": [{"size": 8, "share": 1.0}]}, ("any_size", True), {}),
        ({}, {"data.source": "cifar10", "model.classes": 10, "data.seed": 4}, ("model", None), {"data.seed": "4"}),
        ({"model": "resnet"}, {"model.depth": 2}, ("model", "resnet"), {"model.depth": "2"}),
        ({"weights": "other"}, {"weights": "w", "model.depth": 2}, ("weights", "other"), {}),
        ({"size": "tiny"}, {"model.mlp_ratio": 2.0, "recipe": "nano-conv"}, ("size", "tiny"), {}),
        ({"any_size": True}, {"model.stem_norm": "batch", "recipe": "nano-conv"}, ("any_size", True), {}),
        ({"stem": "conv"}, {"model.stem": "patch", "optim.filter_lr": 0.0}, ("stem", "conv"), {}),
        ({"model": "fastcnn"}, {"model.family": "vit", "optim.filter_lr": 0.0}, ("model", "fastcnn"), {}),
        ({"seed": 1}, {"recipe": "nano-conv"}, ("seed", 1), {"recipe": "nano-conv"}),
        ({}, {"weights": "w", "model.family": "vit", "model.depth": 2}, ("model", None), {"model.depth": "2"}),
    ],
)
def test_the_command_line_comes_first(
    given: dict[str, Any], values: dict[str, Any], option: tuple[str, Any], left: dict[str, str]
) -> None:
    options, changes = combine(NOTHING | given, values)
    assert options[option[0]] == option[1]
    assert changes == left


def beside(values: dict[str, Any], side: int = 32, **given: Any) -> RunConfig:
    """The config of a run with options beside a file."""
    options, changes = combine(NOTHING | given, values)
    wish = Wish("pets", **{name: value for name, value in options.items() if value is not None})
    return override(plan(wish, pictures(side))[0], changes)


@pytest.mark.parametrize(
    ("by_hand", "name"),
    [
        ({}, "mini-conv"),
        ({"optim.lr": "4e-3"}, "mini-conv"),  # as the file has it
        ({"seed": "3", "data.val_fraction": "0.2"}, "mini-conv"),
        ({"optim.lr": "0.01"}, "mini-conv-changed"),
        ({"batch": "64"}, "mini-conv-changed"),
        ({"batch": "64", "recipe": "mine"}, "mine"),
    ],
)
def test_what_is_set_by_hand_beside_a_file_shows_in_the_name_of_its_recipe(by_hand: dict[str, str], name: str) -> None:
    asked = {"recipe": "mini-conv", "optim.lr": "0.004"}
    found = beside_file(asked, by_hand)
    assert found == {**asked, **by_hand, "recipe": name}
    assert beside_file(found, {"batch": "32"})["recipe"] == ("mine" if name == "mine" else "mini-conv") + "-changed"


@pytest.mark.parametrize("teacher", ["fastcnn", "runs/cnn", "none"])
def test_a_files_teacher_teaches_again_and_an_option_takes_its_place(tmp_path: Path, teacher: str) -> None:
    before, _ = plan(Wish("pets", steps=100, size="mini", teacher=teacher), pictures(32))
    values = read_settings(written(tmp_path, to_json(before), "config.json"))
    assert beside(values) == before
    other, _ = plan(Wish("pets", steps=100, size="mini", teacher="resnet"), pictures(32))
    assert beside(values, teacher="resnet") == other


@pytest.mark.parametrize(
    ("before", "given"),
    [
        ({"size": "small"}, {"stem": "patch"}),
        ({"size": "small"}, {"stem": "conv"}),
        ({"size": "small"}, {"any_size": True}),
        ({"size": "small", "stem": "patch"}, {"model": "vit"}),
        ({}, {"stem": "patch"}),
        ({}, {"size": "tiny"}),
        ({"size": "mini"}, {"size": "nano"}),
        ({"size": "mini"}, {"stem": "patch"}),
        ({"stem": "patch"}, {"stem": "conv"}),
        ({"stem": "patch"}, {"size": "nano"}),
        ({"stem": "patch"}, {"size": "tiny"}),
        ({"stem": "patch"}, {"any_size": True}),
        ({"any_size": True}, {"stem": "patch"}),
        ({"any_size": True}, {"stem": "conv"}),
        ({"any_size": True, "stem": "patch"}, {"stem": "conv"}),
        ({"any_size": True}, {"size": "tiny"}),
        ({"model": "resnet", "size": "small"}, {"any_size": True}),
        ({"model": "fastcnn", "size": "tiny"}, {"size": "small"}),
    ],
)
@pytest.mark.parametrize("side", [4, 32])
def test_an_option_beside_a_runs_config_is_that_option_beside_what_the_run_was_asked_for(
    before: dict[str, Any], given: dict[str, Any], side: int, tmp_path: Path
) -> None:
    config, _ = plan(Wish("pets", steps=7, **before), pictures(side))
    values = read_settings(written(tmp_path, to_json(config), "config.json"))
    asked, _ = plan(Wish("pets", steps=7, **before | given), pictures(side))
    assert differing(asked, beside(values, side, **given)) == []


def test_a_name_of_a_recipe_says_the_size_of_a_width_that_no_size_has() -> None:
    config, _ = plan(Wish("pets", steps=7), pictures(32))
    wide = json.loads(to_json(override(config, {"model.width": "160"})))
    values = {f"model.{name}": value for name, value in wide.pop("model").items()} | {"phases": wide["phases"]}
    found = beside({**values, "steps": 7, "recipe": wide["recipe"]}, stem="patch")
    expected, _ = plan(Wish("pets", steps=7, stem="patch"), pictures(32))
    assert found == override(expected, {"model.width": "160"})


def test_what_was_written_by_hand_stays_beside_another_stem() -> None:
    values = {"steps": 7, "model.width": 192, "model.depth": 6, "phases": []}
    assert isinstance(found := beside(values, stem="patch").model, ViTConfig)
    assert (found.width, found.depth, found.stem) == (192, 6, "patch")
    values |= {"model.heads": 3, "model.mlp_ratio": 2.0}
    assert isinstance(found := (config := beside(values, stem="patch")).model, ViTConfig)
    assert (found.width, found.depth, found.mlp_ratio, config.phases) == (192, 6, 2.0, ())
    assert config.recipe == "tiny-patch"
    sizes = beside({"steps": 7, "sizes": [24, 32]}, stem="conv")
    assert (sizes.sizes, sizes.phases, sizes.recipe) == ((24, 32), (), "nano-conv-any-size")


def test_a_file_of_another_family_says_nothing_of_the_size() -> None:
    values = {"steps": 7, "model.family": "vit", "model.width": 384, "model.heads": 6, "recipe": "small-conv"}
    found = beside(values, model="resnet")
    assert isinstance(found.model, CNNConfig)
    assert found.recipe == "nano-resnet"


def test_train_takes_a_file_and_set_wins(tmp_path: Path) -> None:
    text = "steps: 2\nbatch: 8\nevaluations: 1\nmodel: {width: 16, heads: 2, depth: 1}\noptim: {lr: 0.02}\nseed: 5\n"
    path = written(tmp_path, text)
    first = call(
        "train", "digits", "--config", path, "--set", "batch=16", "--seed", 6, "--out", tmp_path / "a", *NO_PROBE
    )
    assert first.exit_code == 0, first.stderr
    config = read_config(tmp_path / "a")
    assert (config.steps, config.batch, config.seed, config.optim.lr, config.model.depth) == (2, 16, 6, 0.02, 1)
    again = call("train", "digits", "--config", tmp_path / "a" / "config.json", "--out", tmp_path / "b")
    assert again.exit_code == 0, again.stderr
    assert read_config(tmp_path / "b") == config
    resumed = call("train", "digits", "--config", path, "--out", tmp_path / "b", "--resume")
    assert resumed.exit_code == 2
    assert "--config cannot be given with --resume" in resumed.stderr


def test_a_file_for_other_pictures_keeps_what_the_pictures_decide(tmp_path: Path) -> None:
    config = override(RunConfig(steps=2), {"model.classes": "7", "data.source": "elsewhere", "model.image_size": "8"})
    path = written(tmp_path, to_json(config), "config.json")
    outcome = call("train", "digits", "--config", path, "--out", tmp_path / "run", *SMALL, *NO_PROBE)
    assert outcome.exit_code == 0, outcome.stderr
    assert (read_config(tmp_path / "run").data.source, read_config(tmp_path / "run").model.classes) == ("digits", 10)
