"""What the report page is made of: templates, filled in by Jinja2, and the tables and figures that they show.

The HTML, SVG and CSS lie in `templates/`; Python only prepares what they show. Every value is escaped as it is filled
in, so names and commands may hold any character. A value that a template expects and does not get is an error.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from uda_jax.errors import UserError
from uda_jax.report import pictures

PICTURE_WIDTH = 360  # pixels; sharp at the width at which the page shows them, small enough for dozens of runs


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: what it says.
      winner: whether it is the best of its column, which is bold.
      shade: fraction by which the background is tinted, or None.
      code: whether the text is a command line or a file name, which may be long.
    """

    text: str
    winner: bool = False
    shade: float | None = None
    code: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that scrolls on narrow screens.

    Attributes:
      head: the column headings.
      rows: as many cells each as there are headings.
      kind: the style sheet's class: "classes" (headings set upright), "sources" (long texts) or "".
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Pictures side by side under one title.

    Attributes:
      title: shown below them.
      files: PNG files; absent ones (None) are left out.
    """

    title: str
    files: Sequence[pathlib.Path | None]

    @functools.cached_property
    def images(self) -> list[tuple[str, str]]:
        """What each picture shows, in words, and the picture as a `data:` address; without one, why it is not shown."""
        shown = []
        for file in filter(None, self.files):
            words, address = f"{file.stem} of {self.title}", ""
            try:
                address = pictures.thumbnail_uri(file, PICTURE_WIDTH)
            except UserError as error:
                # One broken picture must not cost the page of all runs.
                words = str(error)
            shown.append((words, address))
        return shown


def render(template: str, **values: Any) -> Markup:
    """Fills in a template of `templates/`; the result counts as HTML, which other templates take as it is."""
    return Markup(_environment().get_template(template).render(values))


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("uda_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
