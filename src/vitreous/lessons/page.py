"""A lesson as one HTML page: run once, drawings and words kept, nothing from elsewhere.

Sliders cannot move without a server; in their place stands what they were set to. Hovering the attention matrix still
works, since it is style alone. Where a lesson takes a picture of the reader's own, a script does so in its last section
(alone.js), which is all the script there is.
"""

from __future__ import annotations

import html
import importlib.util
import json
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from vitreous.lessons.own import camera_script
from vitreous.lessons.shelf import LESSONS, need_marimo, notebook

STYLE = """
:root{color-scheme:light dark;--ink:#1f2430;--paper:#fff;--tint:#8881}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ee;--paper:#16181d}}
body{font:17px/1.6 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1000px;margin:0 auto;
padding:1em 1.2em 4em}
h1,h2{line-height:1.25;margin:1.6em 0 .5em}nav{display:flex;flex-wrap:wrap;gap:1.2em;font-size:.9em}
code{background:var(--tint);padding:.1em .3em;border-radius:3px;font-size:.9em;overflow-wrap:anywhere}
main *{min-width:0;max-width:100%}main div{flex-wrap:wrap!important}main{overflow-wrap:break-word}
table{border-collapse:collapse;margin:auto;display:block;width:fit-content;max-width:100%;overflow-x:auto}
td,th{padding:.2em .9em;border-bottom:1px solid #8884}
a{color:inherit}.control{display:inline-block;background:var(--tint);border-radius:4px;padding:.1em .6em;margin:.2em}
.markdown{display:block}.paragraph{display:block;margin:.8em 0}
#own canvas{max-width:100%;border:1px solid #8884;touch-action:pan-y}#own input,#own select{font:inherit;max-width:100%}
#own label{max-width:100%}
#own .controls{display:flex;flex-wrap:wrap;gap:.5em 1.2em}
"""
OWN = ("arrays", "patches")
"""Lessons that take a picture of the reader's own, of any kind."""
ELEMENT = re.compile(r"<marimo-ui-element[^>]*>\s*<(marimo-[\w-]+)(.*?)>.*?</\1>\s*</marimo-ui-element>", re.DOTALL)
ATTRIBUTE = re.compile(r"data-([\w-]+)=(?:'([^']*)'|\"([^\"]*)\")")


def export(folder: Path, name: str | None = None) -> list[Path]:
    """Runs a lesson, or all of them, and writes a page each into ``folder``. Returns the pages.

    Raises ValueError where marimo is absent or the lesson is not there.
    """
    need_marimo()
    names = [name] if name else list(LESSONS)
    sources = [notebook(each) for each in names]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for each, source in zip(names, sources, strict=True):
        outputs, _ = load(source).run()
        body = "\n".join(static(output) for output in outputs if output is not None)
        body += _own() if each in OWN else ""
        links = " ".join(f'<a href="{n}.html">{html.escape(LESSONS[n])}</a>' for n in names) if len(names) > 1 else ""
        path = folder / f"{each}.html"
        path.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{html.escape(LESSONS[each])}</title><style>{STYLE}</style>"
            f"<nav>{links}</nav><main>{body}</main></html>\n",
            encoding="utf-8",
        )
        written.append(path)
    return written


def _own() -> str:
    """The section in which a reader's own picture becomes pixels and patches."""
    script = camera_script().replace("export function", "function")
    script += (resources.files("vitreous.lessons") / "alone.js").read_text(encoding="utf-8")
    return f'<section id="own"></section><script type="module">\n{script}</script>'


def load(source: Path) -> Any:
    """The marimo app of a file, not yet run."""
    spec = importlib.util.spec_from_file_location(f"vitreous_lesson_{source.stem}", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # marimo looks the functions of a file up there
    spec.loader.exec_module(module)
    return module.app


def static(output: Any) -> str:
    """The output of a cell as HTML without live parts."""
    from marimo import as_html

    return ELEMENT.sub(_control, as_html(output).text)


def _control(found: re.Match[str]) -> str:
    """What a control was set to, in place of the control."""
    values = {key: html.unescape(one or other) for key, one, other in ATTRIBUTE.findall(found[2])}
    label = re.sub(r"<[^>]+>", "", _plain(values.get("label", "null")) or "").strip()
    setting, steps = _plain(values.get("initial-value", "null")), _plain(values.get("steps", "null"))
    if steps and isinstance(setting, int):  # such a slider counts its stops
        setting = steps[setting]
    if found[1] in ("marimo-file", "marimo-button") or not label:
        return ""
    if isinstance(setting, list):
        setting = " to ".join(map(str, setting)) if found[1] != "marimo-dropdown" else ", ".join(map(str, setting))
    return f'<span class="control">{html.escape(label)}{"" if setting in (None, "") else f": {setting}"}</span>'


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
