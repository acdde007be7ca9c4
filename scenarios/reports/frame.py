"""The frame that reports share: one self-contained HTML file that opens offline, years later."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from scenarios.errors import Problem, ScenarioError
from scenarios.reports.writing import whole_file

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from scenarios.reports.plot_style import Choice

POLICY = "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data: blob:"
"""Content security policy: the browser itself refuses every request that the page could make."""


def require_reportable(path: Path) -> None:
    """Check that a report can be made, before work goes into it.

    Raises:
        ScenarioError: plotly or matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        rule = f"reports need plotly and matplotlib ({error})"
        raise ScenarioError(Problem(str(path), None, "", None, rule, "pip install 'helix-emulator[report]'")) from None


def write_page(page: str, out: Path) -> None:
    """Write a finished page; the file is there whole or not at all.

    Raises:
        ScenarioError: It cannot be written.
    """
    with whole_file(out) as file:
        file.write(page)


@dataclass(slots=True)
class Page:
    """Parts of a page in order; plots get running numbers."""

    parts: list[str] = field(default_factory=list)
    plots: int = 0

    def add(self, *html: str) -> None:
        """Append HTML as it is."""
        self.parts += html

    def header(self, title: str, description: str = "") -> None:
        """The page's title."""
        self.add(f"<header><h1>{escape(title)}</h1>")
        if description:
            self.text(description, "soft")
        self.add("</header>")

    def answer(self, sentences: Iterable[str]) -> None:
        """What came out, first of all."""
        self.add('<section class="answer" aria-label="answer">')
        for sentence in sentences:
            self.text(sentence)
        self.add("</section>")

    def key_figures(self, figures: Iterable[tuple[str, str]]) -> None:
        """Boxes with a name and a value each."""
        cells = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in figures)
        self.add(f'<div class="key">{cells}</div>')

    def heading(self, text: str) -> None:
        """A heading of the second level."""
        self.add(f"<h2>{escape(text)}</h2>")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph."""
        self.add(f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>")

    def terms(self, terms: Iterable[tuple[str, str]]) -> None:
        """Terms with what is to be said of each."""
        told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in terms)
        self.add(f'<dl class="asked">{told}</dl>')

    def folded(self, heading: str, text: str) -> None:
        """Text that opens when its heading is clicked."""
        self.add(f"<details><summary>{escape(heading)}</summary><pre>{escape(text)}</pre></details>")

    def commands(self, versions: Mapping[str, str], *lines: str) -> None:
        """What to type, after installing the version that made the results."""
        own = versions.get("helix-emulator")
        install = [f"pip install 'helix-emulator=={own}'"] if own and own != "not installed" else []
        self.add(f"<pre>{escape(chr(10).join([*install, *lines]))}</pre>")

    def versions(self, versions: Mapping[str, str]) -> None:
        """Versions of what can change a figure."""
        self.text(", ".join(f"{name} {value}" for name, value in versions.items()), "soft")

    def plot(self, figure: Figure | None, label: str, caption: str = "", choices: Sequence[Choice] = ()) -> None:
        """A plot.

        Args:
            figure: What to draw; ``None`` when there is nothing.
            label: What it shows, for those who hear it.
            caption: Below it.
            choices: Parts of it of which one is seen at a time, the first at first.
        """
        if figure is None:
            self.text(f"{label}: there is nothing to show.", "soft")
            return
        self.plots += 1
        name = f"plot-{self.plots}"
        height = int(figure.layout.height)
        said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self.add(
            f'<figure>{_selector(name, choices, len(figure.data))}<div class="plot" id="{name}" role="img" '
            f'aria-label="{escape(label)}" style="height:{height}px"></div>{said}</figure>',
            f'<script type="application/json" id="{name}-data">{_inert(str(figure.to_json()))}</script>',
        )


def document(title: str, page: Page) -> str:
    """The whole file."""
    from plotly.offline import get_plotlyjs

    here = files("scenarios.reports")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)} – helixemu</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(page.parts)
        + f"\n</main>\n<script>{get_plotlyjs()}</script>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _selector(name: str, choices: Sequence[Choice], traces: int) -> str:
    """The list to choose from, and what each choice shows."""
    if len(choices) < 2:
        return ""
    options = "".join(f"<option value={index}>{escape(one.name)}</option>" for index, one in enumerate(choices))
    shown = [
        {"visible": [index in one.traces for index in range(traces)], "layout": dict(one.layout)} for one in choices
    ]
    return (
        f'<label class="choose">show <select data-plot="{name}" autocomplete="off">{options}</select></label>'
        f'<script type="application/json" id="{name}-choices">{_inert(json.dumps(shown))}</script>'
    )


def _inert(text: str) -> str:
    """JSON that cannot end the script element that holds it."""
    json.loads(text)
    return text.replace("<", "\\u003c")
