"""What the report page is made of: templates, filled in by Jinja2, and the tables and figures that they show.

The HTML, SVG and CSS lie in `templates/`; Python only prepares what they show. Every value is escaped as it is filled
in, so names and commands may hold any character. A value that a template expects and does not get is an error.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from uda_jax.errors import UserError
from uda_jax.report import pictures

# Files whose colours stand for classes, so that none may be mixed.
_CLASSES = ("label", "prediction")


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
      kind: the style sheet's classes: "classes" (headings set upright), "published" (but for those of the first four
        columns), "sources" (long texts) or "".
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kind: str = ""


class Image(NamedTuple):
    """A picture of a page.

    Attributes:
      words: what it shows, or why it is not shown.
      address: its `data:` address, "" where it is not shown.
      width, height: in pixels.
    """

    words: str
    address: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Figure:
    """Pictures under one title.

    Attributes:
      title: shown with them.
      files: PNG files; absent ones (None) are left out.
      width: pixels that wider pictures shrink to.
      subject: what they are of, in the words for each; "" = the title.
    """

    title: str
    files: Sequence[pathlib.Path | None]
    width: int
    subject: str = ""

    @functools.cached_property
    def images(self) -> list[Image]:
        """Its pictures; where one cannot be read, why."""
        shown = []
        for file in filter(None, self.files):
            try:
                found = pictures.thumbnail(file, self.width, exact=file.stem in _CLASSES)
                shown.append(Image(f"{file.stem} of {self.subject or self.title}", *found))
            except UserError as error:
                # One broken picture must not cost the page of all runs.
                shown.append(Image(str(error), "", 1, 1))
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
