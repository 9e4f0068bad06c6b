"""Checkpoints are written beside training: what is saved is what was, errors are told, Ctrl-C does not wait."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vitreous import checkpoint
from vitreous.saving import SECONDS, Saver


def written(run: Path) -> dict[str, Tensor]:
    found = checkpoint.latest(run)
    assert found is not None
    return found[0]


def test_what_is_saved_is_what_was_when_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, save = threading.Event(), checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *given: free.wait(10) and save(*given))
    weights = {"w": torch.zeros(3)}
    with Saver(tmp_path) as saver:
        saver.begin(1, weights, {})
        weights["w"].fill_(7)
        assert not saver.due()  # while one is written
        free.set()
    assert torch.equal(written(tmp_path)["w"], torch.zeros(3))


def test_what_went_wrong_is_raised_where_the_next_save_is_asked_for_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    saver = Saver(tmp_path)
    saver.begin(1, {}, {})
    while not (saver._writing and saver._writing.done()):
        pass
    with pytest.raises(OSError, match="No space"):
        saver.due()
    with pytest.raises(OSError, match="No space"), saver:
        saver.begin(2, {}, {})


def test_the_next_save_waits_until_the_last_has_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Saver(tmp_path) as saver:
        assert saver.due()
        saver.begin(1, {"w": torch.zeros(1)}, {})
        saver.wait()
        now[0] += SECONDS - 0.1
        assert not saver.due()
        assert saver.due(occasion=True)
        now[0] += 0.2
        assert saver.due()
        saver._cost = 1.0  # half a percent of 200 seconds
        assert not saver.due(occasion=True)
        now[0] += 200
        assert saver.due()


def test_after_an_interruption_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, over = threading.Event(), threading.Event()
    monkeypatch.setattr(checkpoint, "save", lambda *given: free.wait(10) and over.set())
    saver = Saver(tmp_path)
    saver.begin(1, {}, {})
    with pytest.raises(KeyboardInterrupt), saver:
        raise KeyboardInterrupt
    assert not over.is_set()
    free.set()


@pytest.fixture
def listening() -> Iterator[None]:
    """Python's own answer to Ctrl-C, which a process started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("place", ["wait", "end"])
def test_a_signal_that_the_system_hands_to_another_thread_ends_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: None, place: str
) -> None:
    free, over = threading.Event(), threading.Event()
    monkeypatch.setattr(checkpoint, "save", lambda *given: (free.wait(10), over.set()))

    def strike() -> None:
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def save_and_wait() -> None:
        with Saver(tmp_path) as saver:
            saver.begin(1, {}, {})
            striker.start()
            if place == "wait":
                saver.wait()

    striker = threading.Thread(target=strike)
    with pytest.raises(KeyboardInterrupt):
        save_and_wait()
    assert not over.is_set()
    free.set()
    striker.join()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_never_saved(tmp_path: Path, value: float) -> None:
    with Saver(tmp_path) as saver, pytest.raises(checkpoint.NotFinite, match=r"^model\.b holds NaN or infinite"):
        saver.begin(1, {"model.a": torch.ones(3), "model.b": torch.tensor([1.0, value])}, {})
    assert checkpoint.found(tmp_path) == []
    checkpoint.snapshot({"large": torch.full((9,), 3e38)})  # whose sum is no number is fine itself
