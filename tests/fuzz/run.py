"""Fuzzing for as long as one likes: ``python tests/fuzz/run.py picture --seconds 60`` (needs ``pip install atheris``).

Atheris follows which branches an input takes and keeps those that take new ones in a corpus folder. A finding is a
traceback and a file ``crash-...`` in the current folder; ``python tests/fuzz/run.py picture crash-...`` repeats it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vitreous", "PIL", "json"]):
    from targets import TARGETS, samples


def main() -> None:
    parser = argparse.ArgumentParser(description="fuzz one reader of files")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="where inputs are kept from one call to the next")
    parser.add_argument("repeat", nargs="*", type=Path, help="inputs to run once instead")
    asked = parser.parse_args()
    if asked.repeat:
        for path in asked.repeat:
            TARGETS[asked.target](path.read_bytes())
        return
    corpus = asked.corpus or Path(tempfile.mkdtemp(prefix="vitreous-corpus-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(samples(asked.target)):
        (corpus / f"good-{number}").write_bytes(sample)
    limits = [
        f"-max_total_time={asked.seconds}",
        "-timeout=20",
        "-rss_limit_mb=4096",
        "-max_len=8192",
    ]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], TARGETS[asked.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
