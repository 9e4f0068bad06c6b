"""Which pictures are meant: folders, patterns, lists and files, each file once and in an order that stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitreous.data import listed, load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``all/`` with nested files, some hidden, and the current folder beside it."""
    for name in ("b.jpg", "a.png", "deep/er/c.jpg", "deep/notes.md", ".hidden/d.jpg", "Thumbs.db"):
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_means_every_file_below_it_in_order_hidden_ones_aside(folder: Path) -> None:
    assert list(listed(["all"])) == ["all/a.png", "all/b.jpg", "all/deep/er/c.jpg", "all/deep/notes.md"]
    assert list(listed([str(folder / "all" / "deep")])) == [
        f"{folder}/all/deep/er/c.jpg",
        f"{folder}/all/deep/notes.md",
    ]


def test_patterns_lists_and_files_come_in_the_order_given(folder: Path) -> None:
    (folder / "mine.txt").write_bytes(b"all/b.jpg\r\n\nnot there.jpg\nodd \xff.png\n")
    assert list(listed(["all/**/*.jpg"])) == ["all/b.jpg", "all/deep/er/c.jpg"]
    assert list(listed(["mine.txt", "all/a.png"])) == ["all/b.jpg", "not there.jpg", "odd \udcff.png", "all/a.png"]


def test_links_are_followed_and_each_real_folder_is_read_once(folder: Path) -> None:
    (folder / "all" / "deep" / "round").symlink_to(folder / "all", target_is_directory=True)
    (folder / "all" / "linked").symlink_to(folder / "elsewhere", target_is_directory=True)
    (folder / "all" / "broken.jpg").symlink_to(folder / "gone.jpg")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "e.jpg").write_bytes(b"")
    assert [path for path in listed(["all"]) if "/deep" not in path] == [
        "all/a.png",
        "all/b.jpg",
        "all/broken.jpg",
        "all/linked/e.jpg",
    ]
    assert sum("deep" in path for path in listed(["all"])) == 2


@pytest.mark.usefixtures("locked")
def test_what_cannot_be_listed_or_followed_is_named_as_a_file_is(folder: Path) -> None:
    (folder / "all" / "circle").symlink_to("circle")
    (folder / "all" / "locked").mkdir()
    assert [path for path in listed(["all"]) if "/deep" not in path] == [
        "all/a.png",
        "all/b.jpg",
        "all/circle",
        "all/locked",
    ]


def test_a_tilde_may_begin_a_name(folder: Path) -> None:
    (folder / "~pets").mkdir()
    (folder / "~pets" / "a.png").write_bytes(b"")
    assert list(listed(["~pets"])) == ["~pets/a.png"]
    for read in (lambda source: list(listed([source])), load):
        with pytest.raises(ValueError, match="~none of ours: no such folder"):
            read("~none of ours")


def test_a_list_may_begin_with_a_mark_of_its_encoding(folder: Path) -> None:
    (folder / "mine.txt").write_bytes(b"\xef\xbb\xbfall/b.jpg\nodd \xff.png\n")
    assert list(listed(["mine.txt"])) == ["all/b.jpg", "odd \udcff.png"]


@pytest.mark.parametrize(
    ("source", "said"), [("photoz", "no such folder"), ("*.nothing", "names no picture"), ("empty", "names no picture")]
)
def test_a_source_that_means_nothing_is_refused(source: str, said: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=said):
        list(listed(["all", source]))


def test_names_come_one_by_one(folder: Path) -> None:
    names = listed(["all", "absent"])
    assert next(names) == os.path.join("all", "a.png")  # what follows has not been looked at
