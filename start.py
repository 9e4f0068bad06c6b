"""From a fresh clone to a result, with nothing but Python 3.11 or newer and a package registry.

    python3 start.py          set everything up, train on the embedded digits, print the accuracy and a heatmap picture
    python3 start.py test     set everything up, run every check: ruff, mypy, import order, tests

Everything is installed into .venv beside this file, never into the system's Python; a second call skips the set-up.
Standard library only, since it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def runs(command: list[str]) -> bool:
    """Whether a command exists and ends well; what it prints is dropped."""
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return False
    return done.returncode == 0


def make_environment() -> list[str]:
    """Create .venv unless it works already; returns the command that installs into it.

    Debian splits pip and ensurepip from Python, so there are three ways: the environment's own pip, the system's pip
    (22.3 or newer) aimed at the environment, and uv.
    """
    own = [str(PYTHON), "-m", "pip"]
    if not runs([*own, "--version"]):
        print(f"Making {VENV} ...", flush=True)
        clear = [] if runs([str(PYTHON), "--version"]) else ["--clear"]  # the leftovers of a Python that is gone
        make = [sys.executable, "-m", "venv", *clear, str(VENV)]
        if not (runs(make) or runs([*make, "--without-pip"])):
            sys.exit(f"error: {sys.executable} cannot make a virtual environment: {advice()}")
    system = [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    for pip in (own, system):
        if runs([*pip, "--version"]):
            return [*pip, "install", "--quiet", "--disable-pip-version-check"]
    if shutil.which("uv"):
        best = ["--index-strategy", "unsafe-best-match"]  # as pip: the CPU wheels' index has old versions of others too
        return ["uv", "pip", "install", "--quiet", "--python", str(PYTHON), *best]
    sys.exit(f"error: there is no pip to install with: {advice()}")


def advice() -> str:
    if shutil.which("apt-get"):
        return "run 'apt-get install python3-venv' (as root) and start again"
    return "install Python's venv and ensurepip modules (or uv) and start again"


def wheels() -> list[str]:
    """Where torch comes from: on Linux without an NVIDIA driver the CPU wheels, 3 GB smaller, if reachable."""
    if sys.platform != "linux" or shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia"):
        return []
    try:
        urllib.request.urlopen(f"{CPU_WHEELS}/torch/", timeout=5).close()
    except OSError:
        return []
    return ["--extra-index-url", CPU_WHEELS]


def set_up(extra: str) -> None:
    """Install the project with an extra ("" for none) into .venv, once for each state of pyproject.toml."""
    lock = HERE / "constraints.txt"  # for the tests alone: what people install with shall mix with what they have
    described = (HERE / "pyproject.toml").read_bytes() + lock.read_bytes() + sys.version.encode()
    state = hashlib.sha256(described).hexdigest()
    stamps = [VENV / f"vitreous-ready{name}" for name in {extra, "dev"}]  # "dev" holds all that "" holds
    if any(stamp.is_file() and stamp.read_text() == state for stamp in stamps) and runs([str(PYTHON), "--version"]):
        return
    install = make_environment()
    print("Installing vitreous and what it needs (once; torch is a download of 200 MB or more) ...", flush=True)
    project = f"{HERE}[{extra}]" if extra else str(HERE)
    locked = ["--constraint", str(lock)] if extra == "dev" else []
    environment = {**os.environ, "PIP_USER": "0"}  # a user-wide "user = true" would refuse to install here
    if subprocess.run([*install, *wheels(), *locked, "--editable", project], env=environment, check=False).returncode:
        sys.exit("error: the installation failed; its reason stands above. Start again when it is mended.")
    (VENV / f"vitreous-ready{extra}").write_text(state)


def vitreous(*arguments: str) -> dict[str, object]:
    """Run a vitreous command, its display going to the terminal; returns the JSON object that it printed."""
    print("\n$ vitreous", *arguments, flush=True)
    command = [str(PYTHON), "-m", "vitreous", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def quick_start() -> None:
    """The main job on the embedded data set: train, evaluate on the test split, draw where it looks."""
    trained = vitreous("train", "digits", "--budget", "40s")
    run = str(trained["run"])
    tested = vitreous("eval", run)
    seen = vitreous("heatmap", run)
    print(
        f"\nValidation accuracy {float(str(trained['val_accuracy'])):.1%}, "
        f"test accuracy {float(str(tested['accuracy'])):.1%} on {tested['n']} pictures it never saw.\n"
        f"Heatmaps: {seen['picture']}\n"
        f"Next:     {BIN / 'vitreous'} train FOLDER --budget 5m   (one folder of pictures a class)"
    )


def checks() -> None:
    """Every check of the project; all of them run, and any that fails makes the whole fail."""
    failed = []
    for name, *arguments in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
        ["pytest", "-m", "not alone", "-n", "logical", "--maxprocesses", "4", "--dist", "loadfile"],  # a thread a test
        ["pytest", "-m", "alone"],
    ):
        print("\n$", name, *arguments, flush=True)
        if subprocess.run([str(BIN / name), *arguments], cwd=HERE, check=False).returncode:
            failed.append(name)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall checks pass")
    sys.exit(bool(failed))


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (an older Python can start this file)
        sys.exit(f"error: this is Python {sys.version.split()[0]}, vitreous needs 3.11 or newer: use that one")
    if importlib.util.find_spec("venv") is None:
        sys.exit(f"error: {sys.executable} comes without the venv module: {advice()}")
    job = sys.argv[1:]
    if job not in ([], ["test"]):
        sys.exit(f"error: unknown argument {' '.join(job)!r}: use 'start.py' or 'start.py test'")
    try:
        set_up("dev" if job else "")
        checks() if job else quick_start()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
