"""Bars and lines of progress: what a terminal shows, what a log file keeps."""

import io
import os
import pty
import termios

from uda_jax.data.io.progress import StatusLine, progress_bar


def test_a_bar_counts_to_its_total(capsys):
    assert list(progress_bar("streets: rendering", 3, "frames", iter("abc"))) == ["a", "b", "c"]
    told = capsys.readouterr().err
    assert "streets: rendering: 100%" in told and " 3/3 " in told and "frames/s" in told
    assert list(progress_bar("quiet", 3, "frames", iter("abc"), shown=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_a_line_is_rewritten_on_a_terminal():
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 41))
    with open(slave, "w") as stream:
        line = StatusLine(stream)
        line.show("x" * 100)
        line.show("short")
        line.close()
        line.close()  # nothing is open any more
        written = ""
        while not written.endswith("\n"):  # The kernel may hand it over in pieces.
            written += os.read(master, 10_000).decode()
    os.close(master)
    long, *others = written.removeprefix("\r").split("\r")
    assert long == "x" * 40  # cut, since what wraps cannot be rewritten
    assert others[0] == "short".ljust(40) and written.endswith("\n") and written.count("\n") == 1


def test_elsewhere_every_text_is_a_line():
    stream = io.StringIO()
    line = StatusLine(stream)
    for text in ("1/2", "2/2"):
        line.show(text)
    line.close()
    silent = StatusLine(stream, shown=False)
    silent.show("nothing")
    silent.close()
    assert stream.getvalue() == "1/2\n2/2\n"
