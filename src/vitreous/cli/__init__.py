"""The ``vitreous`` command: each subcommand parses, calls one function, and prints what it returns.

frame.py     what they share: the app, options, errors, JSON
training.py  train
using.py     eval, predict
seeing.py    heatmap, report, compare
data.py      data
showing.py   serve, lesson
"""

from __future__ import annotations

import signal

# Each registers its commands, and --help lists them in this order.
# isort: off
from vitreous.cli import training, using, seeing, data, showing  # noqa: F401

# isort: on
from vitreous.cli.frame import app


def main() -> None:
    """The console script. A SIGTERM ends it as Ctrl-C does; training takes over both while it runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="vitreous")
