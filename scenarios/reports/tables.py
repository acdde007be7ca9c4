"""Tables of a report that its reader can sort, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


def short(value: float, digits: int = 4) -> str:
    """A figure in so many significant digits; large ones whole, never with an exponent of ten to read."""
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e15 else f"{value:.{digits}g}"


@dataclass(frozen=True, slots=True)
class Number:
    """A figure in a cell: what is shown, and what it is sorted by; ``None`` where there is none.

    Attributes:
        value: The figure.
        form: How it is written.
        said: What is shown instead of it: a quantity with its unit, a mean with its interval.
    """

    value: float | None
    form: str = ",.3g"
    said: str = ""

    def __str__(self) -> str:
        return self.said or ("–" if self.value is None else format(self.value, self.form))


@dataclass(frozen=True, slots=True)
class Long:
    """Text that may break over lines."""

    text: str


Cell = str | Number | Long


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], label: str) -> str:
    """A sortable table.

    Args:
        columns: Heads.
        rows: Cells, as many a row as columns.
        label: What it shows, for those who hear it.
    """
    lines = [tuple(row) for row in rows]
    numeric = [bool(lines) and isinstance(cell, Number) for cell in (lines[0] if lines else columns)]
    heads = "".join(
        f'<th scope="col"{"" if right else " class=text"}><button type="button">{escape(column)}</button></th>'
        for column, right in zip(columns, numeric, strict=True)
    )
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in lines)
    return (
        f'<div class="scroll tall" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, Number):
        return f'<td data-value="{"NaN" if cell.value is None else repr(float(cell.value))}">{escape(str(cell))}</td>'
    if isinstance(cell, Long):
        return f'<td class="wrap">{escape(cell.text)}</td>'
    return f'<td class="text">{escape(cell)}</td>'
