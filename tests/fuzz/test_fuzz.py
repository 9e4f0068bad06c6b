"""Whatever a stranger's file holds, it is read or refused in words: no other exception, no crash, nothing executed."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="hypothesis comes with the dev extra")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, samples

EXAMPLES = 60
"""For each target; ``python tests/fuzz/run.py`` goes on from there."""


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with some bytes changed, left out, put in, or doubled."""
    data = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 12))
        data[place : place + length] = draw(st.binary(max_size=12) | st.sampled_from(WORDS))
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


WORDS = (b"null", b"-1", b"NaN", b"1e999", b'"x"', b"[]", b"{}", b"9" * 30, b"\xff" * 8, b"\0" * 8, b"[" * 12)


@pytest.mark.parametrize("target", TARGETS)
def test_a_strangers_file_is_read_or_refused_in_words(target: str) -> None:
    inputs = st.sampled_from(samples(target)).flatmap(damaged) | st.binary(max_size=200)

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(inputs)
    def reads_or_refuses(data: bytes) -> None:
        TARGETS[target](data)

    reads_or_refuses()


@pytest.mark.parametrize("target", TARGETS)
def test_the_files_that_damage_starts_from_are_good(target: str) -> None:
    for sample in samples(target):
        TARGETS[target](sample)


def test_nesting_without_end_is_refused() -> None:
    for target in ("run_config", "checkpoint_state", "manifest", "classifier_config"):
        TARGETS[target](b"[" * 100_000)
