"""Keeps a run of this version for ever: ``python tests/formats/make.py`` at each release, once.

The tiniest run there is on the embedded digits, stopped half-way, in tests/formats/<major.minor>/: what later versions
must read, go on with, and find the same numbers in. What is there is never made anew: it stands for files that people
have on their disks.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import torch

import vitreous
from vitreous import checkpoint
from vitreous.config import override
from vitreous.data import load
from vitreous.recipes import Wish, plan
from vitreous.train import Progress, train

HERE = Path(__file__).parent
SETTINGS = {
    "model.width": "8",
    "model.heads": "1",
    "model.depth": "1",
    "model.patch_size": "4",
    "model.mlp_ratio": "1.0",
    "batch": "16",
    "ema": "0.9",
    "evaluations": "1",
    "precision": "fp32",
    "attention": "explicit",
    "threads": "1",
    "device": "cpu",
}
STEPS, STOPPED = 12, 8


def pictures() -> torch.Tensor:
    """What the kept logits are of: uint8 (3, 1, 8, 8)."""
    return torch.arange(3 * 64, dtype=torch.uint8).view(3, 1, 8, 8)


def last_loss(run: Path) -> float:
    """On validation pictures, at the end of a run."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss"]


def stop(progress: Progress) -> None:
    if progress.phase == "train" and progress.step == STOPPED:
        signal.raise_signal(signal.SIGTERM)


def main() -> None:
    target = HERE / ".".join(vitreous.__version__.split(".")[:2])
    if target.exists():
        sys.exit(f"error: {target} is there: it stands for files on people's disks, so it is never made anew")
    torch.set_num_threads(1)
    data = load("digits", splits={"train", "val"})
    config = override(plan(Wish("digits", steps=STEPS, stem="patch"), data)[0], SETTINGS)
    stopped = train(config, target, data, watch=stop)
    with tempfile.TemporaryDirectory() as scratch:
        train(config, Path(scratch) / "whole", data)
        loss = last_loss(Path(scratch) / "whole")
    logits = stopped.classifier.logits(pictures()).tolist()
    newest = checkpoint.latest(target)
    assert newest is not None
    expected = {"version": vitreous.__version__, "step": newest[1]["step"], "logits": logits, "last_loss": loss}
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    (target / ".lock").unlink()
    for earlier in checkpoint.found(target)[:-1]:
        shutil.rmtree(earlier)


if __name__ == "__main__":
    main()
