"""A lesson as a Jupyter notebook, made from the marimo file by reading it, so that the two say the same.

Words become Markdown cells, everything else code. What a slider would set is set in the code.
"""

from __future__ import annotations

import ast
import json
import sys
import textwrap
from pathlib import Path

from vitreous.lessons.shelf import LESSONS, notebook

INSTALL = '%pip install --quiet "vitreous[lesson]"'


def cells(source: str) -> list[tuple[str, str]]:
    """The cells of a marimo file in its order, each ``markdown`` or ``code`` with its text."""
    found: list[tuple[str, str]] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.With):
            found.append(("code", _text(source, node.body)))
        elif isinstance(node, ast.FunctionDef):
            kind = ast.unparse(node.decorator_list[0]) if node.decorator_list else ""
            if kind.startswith("app.function"):
                node.decorator_list.clear()
                found.append(("code", _text(source, [node])))
            elif kind.startswith("app.cell"):
                body = [line for line in node.body if not isinstance(line, ast.Return)]
                words = [text for line in body if (text := _words(line)) is not None]
                code = [line for line in body if _words(line) is None]
                if code:
                    found.append(("code", _text(source, code)))
                found += [("markdown", text) for text in words]
    return found


def jupyter(name: str) -> str:
    """The lesson ``name`` as the text of an .ipynb file. Raises ValueError for a lesson that is not there."""
    found = [("code", INSTALL), *cells(notebook(name).read_text(encoding="utf-8"))]
    document = {
        "cells": [_cell(number, kind, text) for number, (kind, text) in enumerate(found)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, text: str) -> dict[str, object]:
    cell: dict[str, object] = {
        "cell_type": kind,
        "id": f"cell-{number}",
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _words(line: ast.stmt) -> str | None:
    """The text of ``mo.md("...")``; None for any other statement, and where values are put into the text."""
    if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call) and ast.unparse(line.value.func) == "mo.md":
        text = line.value.args[0]
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            return textwrap.dedent(text.value).strip()
    return None


def _text(source: str, body: list[ast.stmt]) -> str:
    """Statements as they stand in the file, comments between them included, moved to the margin."""
    lines = source.splitlines()
    first, last = body[0].lineno, max(node.end_lineno or node.lineno for node in body)
    while lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return textwrap.dedent("\n".join(lines[first - 1 : last]))


def main(folder: str) -> None:
    """Writes every lesson into ``folder``: ``python -m vitreous.lessons.jupyter docs/lessons``."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in LESSONS:
        (Path(folder) / f"{name}.ipynb").write_text(jupyter(name), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
