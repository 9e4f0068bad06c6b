"""Puts the tables and figures of studies into docs/handout.md, between its marks.

    python bench/handout.py [FOLDER...]

A folder is what ``vitreous compare`` left; without any, runs/handout-size, -data and -budget, as far as they are
there. Each figure is copied to docs/images/.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def filled(text: str, kind: str, table: str) -> str:
    """The text with what stands between the marks of a study replaced. Raises ValueError where there are none."""
    marks = re.compile(rf"(<!-- study: {kind} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"no marks for a {kind} study in the document")
    picture = f"![The curves of the table below](images/study-{kind}.png)"
    return marks.sub(lambda found: f"{found[1]}{picture}\n\n{table.strip()}{found[2]}", text)


def main() -> None:
    given = [Path(name) for name in sys.argv[1:]]
    folders = given or [path for kind in ("size", "data", "budget") if (path := Path(f"runs/handout-{kind}")).is_dir()]
    if not folders:
        sys.exit("no study: run the commands of docs/handout.md first, or name the folders they wrote")
    document = DOCS / "handout.md"
    text = document.read_text(encoding="utf-8")
    for folder in folders:
        kind = json.loads((folder / "study.json").read_text(encoding="utf-8"))["study"]["kind"]
        text = filled(text, kind, (folder / "table.md").read_text(encoding="utf-8"))
        shutil.copyfile(folder / "figure.png", DOCS / "images" / f"study-{kind}.png")
        print(f"{folder} -> the {kind} study of {document.name}")
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
