"""Every cell of every lesson runs, as a script, as a page and as a Jupyter notebook; what is drawn is what it says."""

from __future__ import annotations

import base64
import functools
import json
import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vitreous.arrays import flatten_patches
from vitreous.cli import app
from vitreous.lessons import draw, own, page, shelf
from vitreous.lessons.jupyter import INSTALL, cells, jupyter
from vitreous.lessons.live import accuracy_at, learn, recipe, trained
from vitreous.lessons.samples import SAMPLES, digits, sample
from vitreous.lessons.shelf import LESSONS, notebook

DOCS = Path(__file__).parent.parent / "docs" / "lessons"
SHORT = {"tokens": {"steps": 4}, "training": {"steps": 4, "looks": 2, "sizes": (16, 24), "kinds": ["learned", "none"]}}
"""What makes a lesson that trains a matter of seconds."""

pytest.importorskip("marimo", reason="the lessons are marimo notebooks: pip install 'vitreous[lesson]'")


@functools.cache
def run(name: str) -> tuple[Any, Any]:
    """Outputs and definitions of a lesson that was run as a script, once for all tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # marimo's own are not ours to mend
        outputs, names = page.load(notebook(name)).run(defs=SHORT.get(name))
    return outputs, names


@pytest.mark.parametrize("name", LESSONS)
def test_every_cell_of_a_lesson_runs_as_a_script(name: str) -> None:
    outputs, _ = run(name)
    shown = [page.static(output) for output in outputs if output is not None]
    assert len(shown) > 10
    assert LESSONS[name] in shown[0]
    assert sum("Not yet." in each for each in shown) >= 2  # the exercises wait for their reader


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_uses_what_exists_and_keeps_its_answers_apart(name: str) -> None:
    source = notebook(name).read_text()
    assert "vitreous.arrays" in source
    assert "answers" not in re.sub(r'""".*?"""', "", source, flags=re.DOTALL)


def test_the_convolution_of_the_patch_lesson_gives_the_very_same_numbers() -> None:
    _, names = run("patches")
    assert names["tokens"].shape == (64, 16)
    assert names["flat"].shape == (64, 48)
    assert 0 < names["difference"].max() < 1e-6
    np.testing.assert_array_equal(names["flat"], flatten_patches(names["image"].astype(np.float32) / 255, 4))


def test_without_positions_shuffling_changes_nothing() -> None:
    _, names = run("tokens")
    pixels, shuffle = names["pixels"], names["shuffle"]
    mixed = shuffle(pixels)
    assert not torch.equal(mixed, pixels)
    assert torch.equal(mixed.flatten().sort().values, pixels.flatten().sort().values)
    torch.testing.assert_close(names["blind"].logits(mixed), names["blind"].logits(pixels), rtol=0, atol=1e-5)
    assert (names["classifier"].logits(mixed) - names["classifier"].logits(pixels)).abs().max() > 1e-4


def test_the_block_done_by_hand_is_the_block() -> None:
    _, names = run("tokens")
    assert names["exact"] < 1e-6
    np.testing.assert_allclose(names["weights"].sum(axis=1), 1, rtol=1e-5)


def test_the_training_lesson_compares_every_kind_of_positions_that_it_names() -> None:
    _, names = run("training")
    assert list(names["compared"]) == ["learned", "none"]
    assert all(len(row) == 2 and all(0 <= share <= 1 for share in row) for row in names["compared"].values())
    assert [moment.step for moment in names["moments"]] == [0, 2, 4]


def test_training_is_watched_before_the_first_and_after_the_last_step() -> None:
    data = digits(16)
    assert data.val is not None
    moments = list(learn(recipe(6, width=16), data, data.val.pixels[:3], looks=3))
    assert [moment.step for moment in moments] == [0, 2, 4, 6]
    assert [len(moment.losses) for moment in moments] == [0, 2, 4, 6]
    assert abs(moments[-1].losses[0] - np.log(10)) < 0.3  # nothing is known before the first step
    assert moments[0].filters.shape == (16, 4, 4, 1)
    assert moments[0].maps.shape == (3, 4, 4)
    assert not np.array_equal(moments[0].filters, moments[-1].filters)
    assert not moments[-1].classifier.model.training


def test_training_by_budget_is_refused() -> None:
    data = digits(16)
    assert data.val is not None
    config = recipe(6)
    object.__setattr__(config, "steps", None)
    with pytest.raises(ValueError, match="give steps"):
        next(learn(config, data, data.val.pixels[:1]))


def test_a_trained_model_is_kept_and_reads_larger_pictures() -> None:
    model = trained(4)
    assert trained(4) is model
    assert 0 <= accuracy_at(model, 24) <= 1


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_have_the_size_that_was_asked_for(name: str) -> None:
    picture = sample(name, 24)
    assert picture.shape[:2] == (24, 24)
    assert picture.dtype == np.uint8


def test_ones_own_picture_is_cut_to_the_square() -> None:
    buffer = BytesIO()
    Image.new("RGB", (40, 20), (10, 20, 30)).save(buffer, "PNG")
    assert sample("flower", 16, buffer.getvalue()).tolist() == np.full((16, 16, 3), (10, 20, 30)).tolist()


class Upload:
    """As marimo's control of that name."""

    def __init__(self, *files: bytes) -> None:
        self.value = files

    def contents(self) -> bytes:
        return self.value[0]


class Webcam:
    """As marimo wraps the widget."""

    def __init__(self, taken: bytes = b"") -> None:
        self.value = {"picture": f"data:image/png;base64,{base64.b64encode(taken).decode()}" if taken else ""}


def encoded(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_the_webcams_picture_comes_before_the_file_and_the_file_before_the_sample() -> None:
    red, blue = (encoded(Image.new("RGB", (9, 9), colour)) for colour in ((200, 0, 0), (0, 0, 200)))
    for camera, upload, first in [
        (Webcam(red), Upload(blue), [200, 0, 0]),
        (Webcam(), Upload(blue), [0, 0, 200]),
        (None, Upload(blue), [0, 0, 200]),
        (None, Upload(), sample("flower", 8)[0, 0].tolist()),
    ]:
        image, trouble = own.picture("flower", 8, upload, camera)
        assert (image[0, 0].tolist(), trouble) == (first, "")


def test_a_file_that_is_no_picture_is_told_and_the_sample_stands_in() -> None:
    image, trouble = own.picture("flower", 8, Upload(b"no picture"), None)
    np.testing.assert_array_equal(image, sample("flower", 8))
    assert trouble.startswith("That file cannot be shown: not a JPEG")
    assert own.digit(8, Upload(b"no picture"), None)[1].startswith("That file cannot be shown: not a JPEG")


@pytest.mark.parametrize(("paper", "pen"), [(250, 20), (30, 240)])
def test_a_written_digit_is_brought_to_bright_ink_on_black_that_fills_the_square(paper: int, pen: int) -> None:
    sheet = Image.new("L", (300, 200), paper)
    sheet.paste(pen, (200, 60, 212, 140))  # a one, at the right
    (found, trouble) = own.digit(16, Upload(encoded(sheet)), None)
    assert found is not None
    assert (found.shape, found.dtype, trouble) == ((1, 1, 16, 16), torch.uint8, "")
    inked = found[0, 0] > 128
    assert inked.any(dim=1).sum() >= 12  # from top to bottom
    assert inked.any(dim=0).nonzero().flatten().tolist() in ([7, 8], [6, 7, 8, 9])  # in the middle
    assert found[0, 0, :, :5].max() == 0
    assert own.digit(16, Upload(), None) == (None, "")
    assert own.digit(16, Upload(encoded(Image.new("L", (9, 9), paper))), None)[1].startswith("There is nothing")


def test_a_sample_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"'rose'.*flower, temple, digit"):
        sample("rose", 16)


def embedded(drawing: draw.Drawing) -> list[np.ndarray]:
    """The pictures inside a drawing, (H, W, 3)."""
    found = re.findall(r"data:image/png;base64,([^\"]+)", str(drawing))
    return [np.asarray(Image.open(BytesIO(base64.b64decode(data)))) for data in found]


def test_a_picture_holds_the_pixels_it_was_given() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    drawing = draw.picture(image, caption="a < b", boxes=[draw.Box(0, 1, 1, 2)], grid=2)
    np.testing.assert_array_equal(embedded(drawing)[0], image)
    assert "pixelated" in drawing.html
    assert "a &lt; b" in drawing.html
    np.testing.assert_array_equal(embedded(draw.picture(image[..., :1]))[0], image[..., [0, 0, 0]])


def test_colours_of_signed_numbers_are_white_at_zero_red_above_blue_below() -> None:
    blue, white, red = draw.signed(np.array([-1.0, 0.0, 1.0])).astype(int)
    assert white.min() > 240
    assert blue[2] > blue[0]
    assert red[0] > red[2]


def test_an_even_map_looks_even() -> None:
    low, high = draw.spread(np.full((4, 4), 1 / 16))
    assert (low, high) == (0.5 / 16, 1.5 / 16)


def test_the_attention_drawing_tells_of_each_row_whom_it_looks_at() -> None:
    weights = np.eye(5)[[3, 0, 1, 2, 4]]  # the class token looks at token 3, which is patch 2
    drawing = draw.attention(weights, np.zeros((4, 4, 1), np.uint8), patch=2, special=1)
    titles = re.findall(r"<title>(.*?)</title>", drawing.html)
    assert titles[0] == "the class token looks most at patch 2 (100%)"
    assert titles[1] == "patch 0 looks most at the class token (100%)"
    assert len(titles) == 5
    assert embedded(drawing)[0].shape == (5, 5, 3)
    assert "<script" not in drawing.html
    again = draw.attention(weights, np.zeros((4, 4, 1), np.uint8), patch=2, special=1)
    assert re.findall(r'id="(\w+)"', again.html) != re.findall(r'id="(\w+)"', drawing.html)  # two on one page


def test_curves_bars_and_numbers_are_drawn_even_where_there_is_nothing() -> None:
    assert "polyline" in str(draw.lines({"loss": ([], [])}))
    assert "one" in str(draw.lines({"one": ([0, 1], [1.0, 2.0]), "two": ([0], [0.0])}, x="step", y="loss"))
    assert "50.0%" in str(draw.bars({"cat": 0.5, "dog": 0.5}, highlight="cat"))
    assert str(draw.numbers(np.array([[0, 255]]))).count("<text") == 2
    assert str(draw.beside(draw.bars({"cat": 1.0}), width=100)).startswith("<div")


def test_an_exported_page_holds_all_it_needs(tmp_path: Path) -> None:
    (written,) = page.export(tmp_path, "patches")
    text = written.read_text()
    assert written.name == "patches.html"
    for foreign in ("<link", "src=", "http://", "https://", "marimo-ui-element", "url(", "import "):
        assert foreign not in text
    assert text.count("<script") == 1  # that of the reader's own picture; where none is taken there is no script
    assert "Patch side: 4" in text
    assert "Largest difference" in text
    assert len(text) < 400_000


def test_the_jupyter_notebooks_are_current() -> None:
    for name in LESSONS:
        message = f"docs/lessons/{name}.ipynb is stale: run python -m vitreous.lessons.jupyter docs/lessons"
        assert (DOCS / f"{name}.ipynb").read_text() == jupyter(name), message


@pytest.mark.parametrize("name", ["arrays", "patches"])
def test_a_jupyter_notebook_runs_from_top_to_bottom(name: str) -> None:
    found = json.loads(jupyter(name))["cells"]
    assert found[0]["source"] == [INSTALL]
    assert len({cell["id"] for cell in found}) == len(found)
    words = "".join("".join(cell["source"]) for cell in found if cell["cell_type"] == "markdown")
    assert "## Your turn" in words
    names: dict[str, Any] = {}
    for cell in found[1:]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)


def test_a_marimo_file_becomes_cells_in_its_order() -> None:
    source = (
        "import marimo\napp = marimo.App()\nwith app.setup:\n    import numpy as np\n"
        '@app.cell\ndef _():\n    mo.md("""\n    # Words\n    """)\n    return\n'
        "@app.function\ndef double(x):\n    return 2 * x\n"
        "@app.cell\ndef _(x):\n    # why\n    y = x\n    mo.md(f'{y}')\n    return (y,)\n"
    )
    assert cells(source) == [
        ("code", "import numpy as np"),
        ("markdown", "# Words"),
        ("code", "def double(x):\n    return 2 * x"),
        ("code", "# why\ny = x\nmo.md(f'{y}')"),
    ]


def test_an_unknown_lesson_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown lesson 'patch'.*did you mean 'patches'"):
        notebook("patch")


def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be started, instead of starting it."""
    seen: list[list[str]] = []

    class Done:
        returncode = 0

    monkeypatch.setattr(shelf.subprocess, "run", lambda command, check: seen.append(command) or Done())
    return seen


def test_lesson_opens_one_lesson_or_all_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = commands(monkeypatch)
    assert CliRunner().invoke(app, ["lesson", "tokens"]).exit_code == 0
    assert CliRunner().invoke(app, ["lesson"]).exit_code == 0
    assert [Path(path).name for path in seen[0][4:]] == ["tokens.py"]
    assert [Path(path).stem for path in seen[1][4:]] == list(LESSONS)
    assert seen[0][1:4] == ["-m", "marimo", "run"]


def test_lesson_edits_the_readers_copy_and_never_overwrites_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = commands(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["lesson", "arrays", "--edit"]).exit_code == 0
    copy = tmp_path / "lessons" / "arrays.py"
    assert copy.read_text() == notebook("arrays").read_text()
    copy.write_text("# mine")
    assert CliRunner().invoke(app, ["lesson", "arrays", "--edit"]).exit_code == 0
    assert copy.read_text() == "# mine"
    assert seen[0][3:] == ["edit", str(Path("lessons") / "arrays.py")]


def test_lesson_without_marimo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["lesson"])
    assert result.exit_code == 2
    assert "pip install 'vitreous[lesson]'" in result.output


def test_lesson_refuses_two_wishes_at_once() -> None:
    result = CliRunner().invoke(app, ["lesson", "--edit", "--export", "pages"])
    assert result.exit_code == 2
    assert "choose one" in result.output
