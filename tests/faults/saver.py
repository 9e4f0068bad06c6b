"""Kills processes inside a save at every point there is, and says what is left: ``python saver.py FOLDER POINTS``.

A child process begins to save over what stands in FOLDER and is killed by the kernel: at its n-th call that touches a
file (Python tells of each), or when it writes one byte more than a limit. For each, a line of JSON on standard output.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from vitreous import checkpoint
from vitreous.classifier import Classifier
from vitreous.models import build_model
from vitreous.vit import ViTConfig

SMALL = ViTConfig(image_size=8, patch_size=4, width=32, depth=2, heads=2, classes=3)
TOUCHING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree")


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(SMALL).eval()


def save_checkpoint(folder: Path, seed: int) -> None:
    checkpoint.save(folder, 1 + seed, checkpoint.snapshot(model(seed).state_dict()), {"seed": seed}, keep=2)


def save_classifier(folder: Path, seed: int) -> None:
    names = ("a", "b", "c")
    Classifier(model(seed), SMALL, names, (0.5,) * 3, (0.2,) * 3, {"seed": seed}).save(folder / "classifier")


def seed_of(folder: Path) -> int | None:
    """Which save is there, whole: every byte of it has been checked."""
    if (folder / "checkpoints").exists():
        with warnings.catch_warnings(record=True) as damaged:
            warnings.simplefilter("always")
            found = checkpoint.latest(folder)
        assert not damaged, "half a checkpoint stands under the name of a whole one"
        return found[1]["seed"] if found else None
    return Classifier.load(folder).provenance["seed"]


def at_call(number: int) -> None:
    """This process dies at its ``number``-th call that touches a file."""
    left = [number]

    def touched(event: str, details: tuple[object, ...]) -> None:
        if event in TOUCHING:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touched)


def at_byte(number: int) -> None:
    """This process dies when a file of its own grows past ``number`` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def struck(save: Callable[[Path, int], None], folder: Path, arrange: Callable[[int], None], number: int) -> bool:
    """Whether a child that saves anew was killed before it was done."""
    child = os.fork()
    if not child:
        arrange(number)
        save(folder, 1)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def points(save: Callable[[Path, int], None], scratch: Path, most: int) -> Iterator[dict[str, object]]:
    shutil.rmtree(scratch, ignore_errors=True)
    before = scratch / "before"
    save(before, 0)
    size = max(path.stat().st_size for path in before.rglob("*") if path.is_file())
    arrangements = [(at_call, number) for number in range(1000)]
    arrangements += [(at_byte, size * part // most) for part in range(most)]
    ended = False
    for arrange, number in arrangements:
        if arrange is at_call and ended:
            continue
        folder = scratch / "now"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        killed = struck(save, folder, arrange, number)
        ended = not killed
        yield {
            "save": save.__name__,
            "at": arrange.__name__,
            "number": number,
            "killed": killed,
            "left": seed_of(folder),
        }
        save(folder, 2)  # and the next save finds no trace of it in its way
        assert seed_of(folder) == 2
        assert not [path for path in folder.rglob("*") if path.suffix in (".partial", ".previous")]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for save in (save_checkpoint, save_classifier):
        for found in points(save, Path(sys.argv[1]) / save.__name__, int(sys.argv[2])):
            print(json.dumps(found), flush=True)
