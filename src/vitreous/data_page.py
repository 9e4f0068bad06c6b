"""What a check of a data set found, as one self-contained page with small pictures that opens from disk.

What is found is in data/checking.py; how it is laid out in templates/check.html.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

import vitreous
from vitreous import sealed
from vitreous.data import Findings
from vitreous.data.checking import FEW, MOST_SHOWN

MOST_CLASSES = 200
MOST_LISTED = 500
"""Files left out that the page names; all of them are in the JSON."""


def write_page(findings: Findings, source: str, path: Path) -> Path:
    """Write the page to ``path`` (into it, where it is a folder) and return where it is."""
    from jinja2 import Environment, PackageLoader

    page = Environment(loader=PackageLoader("vitreous"), autoescape=True, trim_blocks=True).get_template("check.html")
    counted = findings.splits.items()
    names = list(next(iter(findings.splits.values()), {}))
    rows = [(name, [counts[name] for _, counts in counted]) for name in names[:MOST_CLASSES]]
    text = page.render(
        found=findings,
        source=source,
        counts=findings.counts(),
        rows=rows,
        most=max((max(numbers) for _, numbers in rows), default=1) or 1,
        hidden_classes=len(names) - len(rows),
        faces={name: _picture(pixels) for name, pixels in findings.faces.items()},
        groups=findings.groups[:MOST_SHOWN],
        odd=findings.odd[:MOST_SHOWN],
        few=FEW,
        listed=MOST_LISTED,
        version=vitreous.__version__,
    )
    path = path / "check.html" if path.is_dir() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    sealed.write(path, text)
    return path


def _picture(pixels: np.ndarray) -> str:
    """Pixels (H, W, C) as a data URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
