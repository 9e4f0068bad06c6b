"""Studies run what is missing and no more, refuse what cannot be before work starts, and say what they found."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vitreous import studies
from vitreous.cli import app
from vitreous.cli.seeing import points as parse_points
from vitreous.cli.seeing import retold
from vitreous.cnn import CNN_PRESETS
from vitreous.compare import compare_models, compare_runs, mcnemar
from vitreous.data import DataSet
from vitreous.faithfulness import check_run
from vitreous.findings import curves, points, report, sentences
from vitreous.jobs import train_on
from vitreous.positions import KINDS
from vitreous.recipes import Wish, plan
from vitreous.studies import Study, cells, read_lines, run_study, subset
from vitreous.train import Progress, Watch
from vitreous.vit import PRESETS


@pytest.fixture(autouse=True)
def _a_smaller_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "nano", {"width": 16, "depth": 1, "heads": 2})
    for family in CNN_PRESETS:
        monkeypatch.setitem(CNN_PRESETS[family], "nano", ((8, 16), 1))


def small(kind: str = "data", **changes: object) -> Study:
    base: dict[str, object] = {"kind": kind, "source": "squares", "steps": 4, "pictures": 16, "device": "cpu"}
    usual = {
        "data": {"at": (0.25, 1.0), "series": ("resnet", "fastcnn"), "seeds": (0, 1)},
        "size": {"at": (8, 12), "series": ("rope", "rope+sizes"), "stem": "patch"},
        "budget": {"at": (2, 4), "series": ("resnet",)},
    }
    return Study(**base | usual[kind] | changes)  # type: ignore[arg-type]


def test_a_study_leaves_a_table_a_figure_and_a_page(tmp_path: Path, squares: DataSet) -> None:
    study, said = small(), []
    lines = run_study(study, tmp_path / "study", squares, say=said.append)
    assert len(lines) == 8 and len(said) == 8
    assert {line["trained_on"] for line in lines} == {32, 128}
    assert all(line["n"] == 16 and line["flops"] > 0 and line["parameters"] > 0 for line in lines)
    found = report(study, lines, tmp_path / "study", "vitreous compare <b>", home=8)
    table = found.table.read_text()
    assert "| series | 25 % | 100 % |" in table and "| resnet |" in table and "2 seeds" in table
    assert json.loads(found.json.read_text())["curves"]["fastcnn"][1]["x"] == 1.0
    assert found.figure.read_bytes().startswith(b"\x89PNG")
    page = found.page.read_text()
    assert "data:image/png;base64" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert "http" not in page


def test_what_is_done_is_not_done_again(tmp_path: Path, squares: DataSet) -> None:
    first = run_study(small(), tmp_path / "study", squares)
    trained: list[str] = []

    @contextlib.contextmanager
    def watching() -> Iterator[Watch | None]:
        trained.append("once")
        yield None

    again = run_study(small(), tmp_path / "study", squares, watching=watching)
    assert trained == [] and again == first
    path = tmp_path / "study" / "results.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:-1]) + "\n" + whole[-1][:30])  # killed while it wrote
    again = run_study(small(), tmp_path / "study", squares, watching=watching)
    assert len(trained) == 1
    kept = [{k: v for k, v in line.items() if k != "seconds"} for line in again]
    assert kept == [{k: v for k, v in line.items() if k != "seconds"} for line in first]
    assert len(read_lines(tmp_path / "study")) == 8


def test_pictures_that_are_not_square_are_read_as_training_reads_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            picture = random.integers(0, 256, (12, 18, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pets" / name / f"{number}.png")
    study = small("budget", source=str(tmp_path / "pets"), at=(2,))
    found = compare_models(study, tmp_path / "study")
    assert found.table.is_file()
    (config,) = (tmp_path / "study" / "cells").glob("*/config.json")
    assert json.loads(config.read_text())["model"]["image_size"] == 16


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(
    tmp_path: Path, squares: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    seen: list[int] = []

    def die(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.phase == "train" and progress.step == 3:
            raise Killed

    study = small("budget", at=(6,))
    whole = run_study(study, tmp_path / "whole", squares)
    monkeypatch.setattr("vitreous.saving.Saver.due", lambda *_, **__: True)
    with pytest.raises(Killed):
        run_study(study, tmp_path / "killed", squares, watching=lambda: contextlib.nullcontext(die))
    seen.clear()
    resumed = run_study(study, tmp_path / "killed", squares, watching=lambda: contextlib.nullcontext(seen_step(seen)))
    assert min(step for step in seen if step) == 3
    assert resumed[0]["accuracy"] == whole[0]["accuracy"]


def seen_step(seen: list[int]) -> Watch:
    def note(progress: Progress) -> None:
        seen.append(progress.step)

    return note


def test_a_size_study_measures_every_run_at_every_size(tmp_path: Path, squares: DataSet) -> None:
    study = small("size", steps=2)
    lines = run_study(study, tmp_path / "study", squares)
    assert [(line["series"], line["x"]) for line in lines] == [
        ("rope", 8),
        ("rope", 12),
        ("rope+sizes", 8),
        ("rope+sizes", 12),
    ]
    configs = {cell.series: cell.config for cell in cells(study, squares)}
    assert configs["rope"].sizes == () and configs["rope"].phases == ()
    assert len(configs["rope+sizes"].sizes) > 1
    said = sentences(study, curves(study, lines), home=8)
    assert len(said) == 2 and "at 8 pixels; at worst" in said[0]


def test_the_usual_size_study_has_every_kind_of_position() -> None:
    names = Study("size", "digits", steps=1).names
    assert {name.removesuffix("+sizes") for name in names} == set(KINDS)


def test_a_budget_study_gives_each_run_its_own(squares: DataSet) -> None:
    assert [cell.config.steps for cell in cells(small("budget"), squares)] == [2, 4]
    timed = Study("budget", "squares", at=(5, 9), series=("resnet",))
    assert [cell.config.budget for cell in cells(timed, squares)] == [5, 9]


def test_what_is_compared_sees_the_same_pictures(squares: DataSet) -> None:
    often = small(at=(1.0,), series=("vit", "vit-patch", "fastcnn"), steps=1000)
    wish = Wish("squares", steps=1000, device="cpu")
    assert plan(wish, squares)[0].augment.randaugment
    assert len({cell.config.augment for cell in cells(often, squares)}) == 1


def test_a_smaller_share_is_part_of_a_larger_one_and_every_class_keeps_its_part(squares: DataSet) -> None:
    assert squares.train is not None
    shares = {share: subset(squares.train, share, seed=3) for share in (0.1, 0.5, 1.0)}
    assert set(shares[0.1].ids) < set(shares[0.5].ids) < set(shares[1.0].ids)
    assert shares[0.5].labels.bincount().tolist() == [16] * 4
    assert shares[0.1].ids != subset(squares.train, 0.1, seed=4).ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "dat"}, "unknown study 'dat': did you mean 'data'"),
        ({"kind": "data", "at": (0.5, 2.0)}, "2 is no share of the training data: give shares above 0, up to 1"),
        ({"kind": "data", "budget": 9.0}, "exactly one of --budget and --steps"),
        ({"kind": "data", "series": ("resnt",)}, "unknown series 'resnt' in a data study: did you mean 'resnet'"),
        ({"kind": "size", "series": ("rop",)}, "did you mean 'rope'"),
        ({"kind": "size", "at": (8.5,)}, "8.5 is no picture size: give whole numbers"),
        ({"kind": "budget", "budget": 9.0}, "takes its budgets from --at"),
        ({"kind": "data", "split": "train"}, "val or test"),
        ({"kind": "data", "seeds": ()}, "at least one"),
        ({"kind": "data", "pictures": 0}, "pictures is 0"),
    ],
)
def test_impossible_studies_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Study(**{"source": "squares", "steps": 4} | changes)  # type: ignore[arg-type]


def test_what_the_data_cannot_give_is_refused_before_any_work(tmp_path: Path, squares: DataSet) -> None:
    out = tmp_path / "study"
    with pytest.raises(ValueError, match=r"a share of 0.01 leaves class 'top left' without a picture, of 32.*0.031"):
        run_study(small(at=(0.01, 1.0)), out, squares)
    with pytest.raises(ValueError, match="pictures of 1 pixels are smaller than a patch of 2"):
        run_study(small("size", at=(1, 16)), out, _larger(squares))
    with pytest.raises(ValueError, match="has no test pictures: use --split val"):
        run_study(small(split="test"), out, dataclasses.replace(squares, test=None))
    assert not out.exists()
    run_study(small("budget", at=(1,)), out, squares)
    with pytest.raises(ValueError, match=r"holds another study \(at: \[1\] -> \[2\]\)"):
        run_study(small("budget", at=(2,)), out, squares)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not empty and holds no study"):
        run_study(small(), tmp_path / "mine", squares)


def _larger(data: DataSet) -> DataSet:
    """The same at twice the side, where patches have 2 pixels."""
    assert data.train is not None and data.val is not None

    def twice(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)

    parts = {
        name: dataclasses.replace(images, pixels=twice(images.pixels))
        for name, images in (("train", data.train), ("val", data.val))
    }
    return dataclasses.replace(data, **parts)


def test_bands_know_of_seeds_and_of_pictures() -> None:
    def line(seed: int, accuracy: float) -> dict[str, float | int]:
        return {"x": 1.0, "seed": seed, "accuracy": accuracy, "n": 100, "flops": 1, "seconds": 2.0, "images": 10}

    (alone,) = points([line(0, 0.5)])
    assert alone.half == pytest.approx(1.96 * 0.05)
    (several,) = points([line(0, 0.4), line(1, 0.6)])
    assert several.mean == pytest.approx(0.5) and several.seeds == 2
    assert several.half == pytest.approx(1.96 * (0.01 + 0.0025) ** 0.5)


def test_mcnemar_is_the_exact_sign_test() -> None:
    def told(mine: int, theirs: int) -> float:
        first = np.array([True] * mine + [False] * theirs + [True, False])
        second = np.array([False] * mine + [True] * theirs + [True, False])
        assert mcnemar(first, second) == mcnemar(second, first)
        return mcnemar(first, second)

    assert told(0, 0) == 1.0
    assert told(5, 5) == 1.0
    assert told(0, 5) == pytest.approx(2 / 32)
    assert told(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert told(900, 1100) == pytest.approx(8.5e-6, rel=0.05)  # the normal approximation, with its correction


def test_two_runs_on_the_same_pictures(tmp_path: Path) -> None:
    quick = {"precision": "fp32", "attention": "explicit", "evaluations": "0"}
    wish = Wish("digits", steps=10, device="cpu")
    narrow = {"model.width": "32", "model.depth": "1", "model.patch_size": "2"}
    train_on(dataclasses.replace(wish, stem="patch"), tmp_path / "vit", changes=quick | narrow)
    train_on(dataclasses.replace(wish, model="fastcnn"), tmp_path / "cnn", changes=quick)
    duel = compare_runs(tmp_path / "vit", tmp_path / "cnn", tmp_path / "duel", n=3)
    values = json.loads((tmp_path / "duel" / "compare.json").read_text())
    assert values["both"] + sum(values["only"]) + values["neither"] == values["n"]
    assert [run["name"] for run in values["runs"]] == ["vit", "cnn"]
    assert 0 <= values["p"] <= 1 and len(duel.sentences) == 4
    assert duel.picture.read_bytes().startswith(b"\x89PNG")
    assert "Grad-CAM" in duel.page.read_text()
    verdict = check_run(tmp_path / "vit", ["attention"], n=10)["attention"]
    said = compare_runs(tmp_path / "vit", tmp_path / "cnn", tmp_path / "duel", n=3).sentences
    assert (said[-1] == f"The attention maps of vit are {verdict.words}.") == bool(verdict.failed)
    with pytest.raises(ValueError, match="compared with itself"):
        compare_runs(tmp_path / "vit", tmp_path / "vit", tmp_path / "duel")
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        compare_runs(tmp_path / "vit", tmp_path / "none", tmp_path / "duel")


def test_the_command_line_reads_points_and_tells_the_command_again() -> None:
    assert parse_points("0.1, 1", times=False) == (0.1, 1.0)
    assert parse_points("15s,1m", times=True) == (15.0, 60.0)
    assert parse_points(None, times=True) == ()
    with pytest.raises(ValueError, match="--at a,b is no list of numbers"):
        parse_points("a,b", times=False)
    with pytest.raises(ValueError, match=r"--at 15: .*90s"):
        parse_points("15", times=True)
    given = ["compare", "data", "cifar10", "--data-root", "/here", "--steps", "4", "--out=there", "--json"]
    assert retold(given) == "vitreous compare data cifar10 --steps 4"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weather", "digits", "--steps", "1"], "unknown study 'weather'"),
        (["data", "digits"], "exactly one of --budget and --steps"),
        (["data", "digits", "digits", "--steps", "1"], "of one data set, not of 2"),
        (["runs", "here"], "1 runs to compare: give two"),
        (["runs", "here", "there"], "here is no run folder"),
        (["budget", "digits", "--at", "15"], "--at 15: "),
        (["size", "digits", "--steps", "1", "--series", "rope,+sizes"], "unknown series '+sizes'"),
    ],
)
def test_the_command_line_refuses_in_a_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["compare", *words])
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_line_after_a_torn_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"points": [{"x": 1}')
    studies._append(tmp_path, [{"x": 2}])
    assert read_lines(tmp_path) == [{"x": 2}]
