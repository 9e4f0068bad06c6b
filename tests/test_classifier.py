"""A classifier folder is whole, safe to load, and reads pictures the same way everywhere."""

from __future__ import annotations

import dataclasses
import json
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vitreous import sealed
from vitreous.classifier import Classifier, normalise
from vitreous.models import build_model
from vitreous.vit import ViTConfig

CONFIG = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2, classes=3, stem="conv")


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    return Classifier(model, CONFIG, ("cat", "dog", "owl"), (0.5, 0.4, 0.3), (0.2, 0.2, 0.3), {"seed": 0})


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_saving_and_loading_keeps_everything(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "classifier")
    loaded = Classifier.load(tmp_path / "classifier")
    assert torch.allclose(loaded.logits(pictures(5)), classifier.logits(pictures(5)), atol=1e-6)
    assert (loaded.classes, loaded.mean, loaded.std) == (classifier.classes, classifier.mean, classifier.std)
    assert (loaded.config, loaded.provenance) == (classifier.config, classifier.provenance)
    assert not loaded.model.training
    through_run = Classifier.load(tmp_path)  # a run folder holds it as classifier/
    assert torch.equal(through_run.logits(pictures(5)), loaded.logits(pictures(5)))
    names = {path.name for path in (tmp_path / "classifier").iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "manifest.json"}


def test_one_picture_alone_and_in_a_batch_give_the_same_scores(classifier: Classifier) -> None:
    batch = pictures(64)
    together = classifier.logits(batch)
    alone = torch.cat([classifier.logits(batch[i : i + 1]) for i in range(64)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_files_bytes_arrays_and_pil_pictures_are_read_alike(classifier: Classifier, tmp_path: Path) -> None:
    array = pictures(1)[0].permute(1, 2, 0).numpy()
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(buffer.getvalue())
    kinds = [path, str(path), buffer.getvalue(), array, Image.fromarray(array)]
    read = [classifier.read(kind) for kind in kinds]
    assert all(torch.equal(pixels, pictures(1)[0]) for pixels in read)
    predictions = classifier.predict(kinds)
    assert len({prediction.top for prediction in predictions}) == 1


def in_mode(mode: str) -> Image.Image:
    """A picture of random pixels in one of Pillow's modes."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    if mode == "F":
        return Image.fromarray(random.random((20, 30), dtype=np.float32))
    if mode in ("I", "I;16"):
        return Image.fromarray(random.integers(0, 65536, (20, 30)).astype(np.int32 if mode == "I" else np.uint16))
    if mode in ("LA", "RGBA", "La", "RGBa", "PA"):
        colours.putalpha(Image.linear_gradient("L").resize((30, 20)))
    if mode in ("La", "RGBa", "PA"):
        colours = colours.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode])
    return colours.convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "JPEG"),
        ("LA", "PNG"),
        ("I;16", "PNG"),
        ("I", "TIFF"),
        ("F", "TIFF"),
        ("P", "GIF"),
        ("RGB", "JPEG"),
        ("RGBA", "WEBP"),
        ("CMYK", "JPEG"),
        ("YCbCr", "TIFF"),
        ("PA", "TIFF"),
    ],
)
def test_a_picture_that_pillow_opened_is_read_as_its_file(
    mode: str, kind: str, channels: int, classifier: Classifier, tmp_path: Path
) -> None:
    tool = dataclasses.replace(classifier, config=dataclasses.replace(CONFIG, channels=channels))
    path = tmp_path / "picture"
    in_mode(mode).save(path, kind)
    expected = tool.read(path)
    with Image.open(path) as picture:
        assert torch.equal(tool.read(picture), expected)
    if kind in ("PNG", "TIFF"):  # and one that was never in a file
        assert torch.equal(tool.read(in_mode(mode)), expected)


@pytest.mark.parametrize(("mode", "same_as"), [("La", "LA"), ("RGBa", "RGBA"), ("HSV", "RGB"), ("RGBX", "RGB")])
def test_a_mode_that_no_file_holds_is_read_too(mode: str, same_as: str, classifier: Classifier) -> None:
    there = classifier.read(in_mode(mode)).int()
    assert (there - classifier.read(in_mode(same_as)).int()).abs().float().mean() < 4  # it rounds on its way there


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparency_of_a_palette_is_laid_on_white_by_path_and_as_pillows(
    kind: str, classifier: Classifier, tmp_path: Path
) -> None:
    picture = Image.new("P", (16, 16), 1)
    picture.putpalette([250, 0, 0, 0, 250, 0])
    picture.paste(0, (8, 0, 16, 16))
    picture.save(tmp_path / "picture", kind, transparency=0)
    expected = classifier.read(tmp_path / "picture")
    assert expected[:, 4, 12].tolist() == [255, 255, 255] and expected[:, 4, 4].tolist() == [0, 250, 0]
    with Image.open(tmp_path / "picture") as opened:
        assert torch.equal(classifier.read(opened), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_pillow_opened_is_turned_as_exif_says(
    orientation: int, classifier: Classifier, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    in_mode("RGB").save(tmp_path / "phone.jpg", exif=exif)
    with Image.open(tmp_path / "phone.jpg") as opened:
        before = opened.size
        assert torch.equal(classifier.read(opened), classifier.read(tmp_path / "phone.jpg"))
        assert opened.size == before  # the picture of whoever asked stays as it is
    expected = classifier.predict([tmp_path / "phone.jpg"])
    assert classifier.predict([Image.open(tmp_path / "phone.jpg")]) == expected


def test_a_cut_file_that_pillow_opened_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    in_mode("RGB").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(ValueError, match="cannot be decoded"):
        classifier.read(opened)


def test_predictions_are_sorted_probabilities(classifier: Classifier) -> None:
    (prediction,) = classifier.predict(pictures(1), top=9)
    probabilities = [p for _, p in prediction.top]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
    assert (prediction.label, prediction.probability) == prediction.top[0]
    assert {label for label, _ in prediction.top} == {"cat", "dog", "owl"}


def test_any_picture_size_is_brought_to_the_training_size(classifier: Classifier) -> None:
    picture = np.full((50, 90, 3), 77, dtype=np.uint8)
    assert torch.equal(classifier.read(picture), torch.full((3, 16, 16), 77, dtype=torch.uint8))


def test_normalising_is_by_the_formula() -> None:
    pixels = pictures(2)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)
    expected = (pixels.float() / 255 - mean) / std
    assert torch.allclose(normalise(pixels, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)), expected, atol=1e-5)


def test_what_is_no_classifier_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json\.\nGive the folder that train"):
        Classifier.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"it does not exist\.\nGive the folder that train"):
        Classifier.load(tmp_path / "gone")
    folder = classifier.save(tmp_path / "classifier")
    config = json.loads((folder / "config.json").read_text())
    (folder / "manifest.json").unlink()  # as the message about edited files says

    def rewritten(**changes: object) -> None:
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    rewritten(format=99)
    with pytest.raises(ValueError, match="format 99 is newer"):
        Classifier.load(folder)
    rewritten(model={**config["model"], "depth": 2})
    with pytest.raises(ValueError, match=r"another architecture: missing blocks\.1"):
        Classifier.load(folder)
    rewritten(model={**config["model"], "deptth": 2})
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        Classifier.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is it a classifier of vitreous"):
        Classifier.load(folder)
    (folder / "config.json").write_text("not json")
    with pytest.raises(ValueError, match="cannot load"):
        Classifier.load(folder)


def test_a_pickle_in_place_of_weights_is_never_executed(classifier: Classifier, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (canary,))

    folder = classifier.save(tmp_path / "classifier")
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    sealed._seal(folder, 1)  # its hashes are no protection against whoever wrote it
    with pytest.raises(ValueError, match="cannot load"):
        Classifier.load(folder)
    assert not canary.exists()


def test_a_flipped_bit_is_found_and_the_cure_named(classifier: Classifier, tmp_path: Path) -> None:
    folder = classifier.save(tmp_path / "classifier")
    for name in ("config.json", "model.safetensors", "manifest.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(ValueError, match=rf"was changed after it was written \({name} .*--resume --out RUN"):
            Classifier.load(folder)
        (folder / name).write_bytes(whole)
    (folder / "README.md").write_text("a better card")
    Classifier.load(folder)


def test_a_kill_between_two_renames_leaves_the_classifier_of_before(classifier: Classifier, tmp_path: Path) -> None:
    folder = classifier.save(tmp_path / "run" / "classifier")
    folder.rename(folder.with_name("classifier.previous"))
    for path in (tmp_path / "run", folder):
        assert torch.equal(Classifier.load(path).logits(pictures(2)), classifier.logits(pictures(2)))
    classifier.save(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["classifier"]


def test_a_weight_too_many_is_named(classifier: Classifier, tmp_path: Path) -> None:
    folder = classifier.save(tmp_path / "classifier")
    weights = load_file(folder / "model.safetensors")
    (folder / "manifest.json").unlink()
    save_file({**weights, "extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="unknown extra"):
        Classifier.load(folder)


def test_pictures_that_cannot_be_read_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        classifier.read(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"give uint8 \(H, W, 3\)"):
        classifier.read(np.zeros((4, 4), dtype=np.float32))
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError):  # noqa: PT011 - the words belong to the data room
        classifier.read(tmp_path / "text.png")
