"""docs/distributed.md and its files: they are run with torchrun, SLURM and Kubernetes played, and counted again."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent
FILES = ROOT / "docs" / "distributed"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the files are for bash")


@pytest.fixture
def played(tmp_path: Path) -> dict[str, str]:
    """Surroundings in which srun runs what it is given, scontrol knows two hosts, and torchrun only says its words."""
    programs = tmp_path / "bin"
    programs.mkdir()
    bodies = {"srun": '"$@"', "scontrol": "printf 'one\\ntwo\\n'", "torchrun": "printf '%s\\n' \"$@\""}
    for name, body in bodies.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}"}


def said(command: list[str], surroundings: dict[str, str]) -> list[str]:
    """The words that torchrun was given."""
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def check(words: list[str], machines: int, where: str) -> None:
    """Torchrun is told where to meet, and Vitreous a command that it understands."""
    from torch.distributed.run import get_args_parser

    asked = get_args_parser().parse_args(words)
    assert int(asked.nnodes) == machines
    assert (asked.nproc_per_node, asked.max_restarts) == ("gpu", 3)
    assert (asked.rdzv_backend, asked.rdzv_endpoint) == ("c10d", where)
    assert (asked.module, asked.training_script) == (True, "vitreous")
    assert asked.training_script_args == ["train", "/data/pets", "--out", "/runs/pets", "--budget", "1h"]


def test_slurm_starts_one_torchrun_a_machine(played: dict[str, str]) -> None:
    script = FILES / "slurm.sh"
    given = {"SLURM_JOB_NODELIST": "x", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "DATA": "/data/pets"}
    check(said(["bash", str(script)], {**played, **given, "RUN": "/runs/pets"}), 2, "one:29500")
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in script.read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert (options["nodes"], options["ntasks-per-node"]) == ("2", "1")
    missing = subprocess.run(["bash", str(script)], env={**played, **given}, capture_output=True, text=True)
    assert missing.returncode != 0
    assert "RUN: the run folder" in missing.stderr


def test_kubernetes_starts_one_torchrun_a_pod_that_finds_the_first_by_name(played: dict[str, str]) -> None:
    service, job = yaml.safe_load_all((FILES / "job.yaml").read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    (container,) = pod["containers"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    given: dict[str, Any] = {each["name"]: each["value"] for each in container["env"]}
    given |= {"DATA": "/data/pets", "RUN": "/runs/pets"}
    words = said([*container["command"], *container["args"]], {**played, **given})
    check(words, job["spec"]["completions"], f"{name}-0.{service['metadata']['name']}:29500")


def test_what_is_on_paper_is_what_the_cost_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    table = importlib.import_module("distributed").paper()
    assert table in (ROOT / "docs" / "distributed.md").read_text(), "docs/distributed.md: put its table anew"


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_starts_the_processes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "pictures" / ("dark" if number % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 60, (16, 16, 3), dtype=np.uint8) + 180 * (1 - number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    command = [sys.executable, str(FILES / "ray_train.py"), "pictures", "run", "--budget", "30", "--cpu"]
    subprocess.run([*command, "--processes", "2"], cwd=tmp_path, check=True)
    assert (tmp_path / "run/classifier/model.safetensors").is_file()
