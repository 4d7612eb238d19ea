"""The one line that an error ends a command with."""

from uda_jax.errors import UserError, os_error_line


def line_of(error: BaseException) -> str | None:
    """Returns the line for a user's mistake and for what the operating system refuses; None for a fault of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return os_error_line(error)
    if isinstance(error, UnicodeError):
        return _not_text(error)
    if isinstance(error, MemoryError):
        return "out of memory; use smaller batches, fewer workers or smaller images"
    # What XLA raises for a device's memory has no type of its own.
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        first = str(error).splitlines()[0]
        return f"out of memory on the device; use smaller batches or smaller images ({first})"
    return None


def _not_text(error: UnicodeError) -> str:
    """Returns the line for a text file of other bytes than UTF-8, or for a name that is no text."""
    if isinstance(error, UnicodeDecodeError):
        near = error.object[max(0, error.start - 20) : error.end + 20]
        return f"a text file is not in UTF-8, near {near!r}; save it as UTF-8"
    return f"a name cannot be written as text ({error}); rename the file"
