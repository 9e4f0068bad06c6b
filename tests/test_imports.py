"""Importing costs nothing and changes nothing; the names of the front door lead to their rooms."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import vitreous

ROOMS = sorted(
    room.name for room in pkgutil.walk_packages(vitreous.__path__, "vitreous.") if not room.name.endswith("__main__")
)


def python(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_no_room() -> None:
    loaded = python("import sys, vitreous; print(*(m for m in sys.modules if m.startswith(('vitreous.', 'torch'))))")
    assert loaded.strip() == ""


def test_importing_every_room_prints_nothing_and_leaves_torch_as_it_was() -> None:
    printed = python(
        "import torch; before = torch.get_num_threads(), torch.get_default_dtype(), torch.random.get_rng_state()\n"
        f"import importlib\nfor room in {ROOMS}: importlib.import_module(room)\n"
        "assert before[:2] == (torch.get_num_threads(), torch.get_default_dtype())\n"
        "assert torch.equal(before[2], torch.random.get_rng_state())"
    )
    assert printed == ""


@pytest.mark.parametrize("name", vitreous.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(vitreous, name) is not None
    assert name in dir(vitreous)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        vitreous.trian  # noqa: B018
