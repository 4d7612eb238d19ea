"""Reports: what finished and unfinished runs did, as one HTML page, result rows and tables in Markdown."""

from uda_jax.report.page import write
from uda_jax.report.runs import Run, collect
from uda_jax.report.tables import markdown, read_rows

__all__ = ["Run", "collect", "markdown", "read_rows", "write"]
