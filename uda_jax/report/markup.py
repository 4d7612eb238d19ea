"""The pieces of HTML that the sections of the report page are made of."""

import html
import pathlib
from collections.abc import Sequence

from uda_jax.report import pictures

PICTURE_WIDTH = 360  # pixels; sharp at the width at which the page shows them, small enough for dozens of runs


def text(value: object) -> str:
    """Returns a value as text that is safe within HTML."""
    return html.escape(str(value))


def table(head: Sequence[str], body: Sequence[str], kind: str = "") -> str:
    """Returns a table that scrolls on narrow screens.

    Args:
      head: the column headings.
      body: rows, as `<tr>` elements.
      kind: the style sheet's class: "classes" (headings set upright), "sources" (long texts) or "".
    """
    cells = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in head)
    rows = f'<table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="scroll">{rows}</div>'


def cell(value: str, winner: bool = False, shade: float | None = None) -> str:
    """Returns a table cell, bold for a winner; `shade` (fraction) tints its background."""
    bold = ' class="winner"' if winner else ""
    look = "" if shade is None else f' style="background:rgba(var(--tint),{0.42 * shade:.2f})"'
    return f"<td{bold}{look}>{text(value)}</td>"


def code_cell(value: str) -> str:
    """Returns a table cell for a command line or a file name."""
    return f'<td class="text"><code>{text(value)}</code></td>'


def figure(title: str, files: Sequence[pathlib.Path | None]) -> str:
    """Returns pictures side by side under one title; absent ones (None) are left out."""
    images = ""
    for file in filter(None, files):
        source = pictures.thumbnail_uri(file, PICTURE_WIDTH)
        images += f'<img loading="lazy" alt="{text(file.stem)} of {text(title)}" src="{source}">'
    return f"<figure><div>{images}</div><figcaption>{text(title)}</figcaption></figure>"
