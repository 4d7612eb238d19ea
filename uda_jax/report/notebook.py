"""What notebooks need beside the library's own functions."""

from typing import Any

from uda_jax.errors import UserError


def one_line_errors() -> None:
    """Lets a notebook tell a `UserError` as its one line, as the commands do, instead of a traceback.

    The cell still fails, so that "run all" stops there. Outside of IPython there is nothing to do.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if (shell := get_ipython()) is not None:
        shell.set_custom_exc((UserError,), _tell)


def _tell(shell: Any, kind: type, error: BaseException, traceback: Any, tb_offset: int | None = None) -> list[str]:
    line = f"{kind.__name__}: {error}"
    # What Jupyter's kernel sends to the page, and a terminal prints, in place of a traceback.
    shell._showtraceback(kind, error, [line])
    return [line]
