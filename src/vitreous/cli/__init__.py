"""The ``vitreous`` command: each subcommand parses, calls one function, and prints what it returns.

frame.py     what they share: the app, options, errors, JSON
training.py  train
using.py     eval, verify, predict, search
seeing.py    heatmap, report, compare
keeping.py   list
data.py      data
sharing.py   export, import, push
showing.py   serve, lesson
measuring.py bench
"""

from __future__ import annotations

import gc
import os
import signal
import sys

# Each registers its commands, and --help lists them in this order.
# isort: off
from vitreous.cli import training, using, seeing, keeping, data, sharing, showing, measuring  # noqa: F401

# isort: on
from vitreous.cli.frame import app


def main() -> None:
    """The console script. A SIGTERM ends it as Ctrl-C does; training takes over both while it runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(prog_name="vitreous")
    except SystemExit as end:
        if end.code == 130:  # whoever interrupts does not want to wait for threads that still write
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        gc.freeze()  # or the interpreter would look through torch's objects for garbage before it ends: 0.8 s
        raise
