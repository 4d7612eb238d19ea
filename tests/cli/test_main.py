"""The command line as such: its words, its streams, and that whatever the system refuses ends in one line."""

import errno
import io
import os
import subprocess
import sys

import pytest

from uda_jax.cli import console, main
from uda_jax.cli.main import _parser, parsed
from uda_jax.errors import UserError, os_error_line

UDA = [sys.executable, "-m", "uda_jax"]


@pytest.fixture
def command(monkeypatch):
    """Puts a function in place of `uda methods`, and runs that."""

    def run(function):
        monkeypatch.setattr("uda_jax.cli.inspection._methods", function)
        return main(["methods"])

    return run


def raises(error):
    def function(options):
        del options
        raise error

    return function


@pytest.mark.parametrize("number", sorted(set(errno.errorcode) - {errno.EPIPE}))
def test_every_error_of_the_system_ends_in_one_line(number, command, capsys):
    assert command(raises(OSError(number, os.strerror(number), "runs/a\x1b[31m\nb"))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(r"uda: error: runs/a\x1b[31m\nb: "), lines
    assert ("disk is full" in lines[0]) == (number in (errno.ENOSPC, errno.EDQUOT))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("no number at all"), "no number at all"),
        (OSError(), "OSError"),
        (PermissionError(errno.EACCES, "x", b"bytes"), "bytes: permission denied; change its rights"),
        (OSError(errno.EMFILE, "x"), "too many open files; raise the limit with 'ulimit -n'"),
        (OSError(errno.ENAMETOOLONG, "x", "y" * 5000), "y...y"),
        (MemoryError(), "out of memory; use smaller batches"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"), "on the device; use smaller batches or smaller"),
        (UserError("a\x1b]0;b\nc"), r"a\x1b]0;b\nc"),
    ],
)
def test_other_ends_in_one_line(error, words, command, capsys):
    assert command(raises(error)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and len(line) < 700


def test_text_of_another_encoding_is_named(command, capsys):
    assert command(lambda options: b"name: caf\xe9".decode()) == 2
    assert "not in UTF-8, near b'name: caf\\xe9'; save it as UTF-8" in capsys.readouterr().err


def test_faults_of_the_library_keep_their_traceback(command):
    for error in (RuntimeError("a fault"), TypeError("a fault"), ValueError("a fault")):
        with pytest.raises(type(error), match="a fault"):
            command(raises(error))


def test_the_interrupt_has_its_status(command, capsys):
    assert command(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "uda: interrupted; the same command goes on or starts again\n"


def test_a_path_is_named_where_the_error_has_none(tmp_path):
    assert os_error_line(OSError(errno.EROFS, "x"), tmp_path).startswith(f"{tmp_path}: the file system is read-only")
    assert os_error_line(OSError(errno.EROFS, "x", "a"), tmp_path).startswith("a: ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_quiet(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([*UDA, "datasets"], stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert done.stderr == b"" and done.returncode == 141


def test_a_broken_pipe_within_is_not_quiet(command, capsys):
    assert command(raises(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 2
    assert "Broken pipe" in capsys.readouterr().err


def test_any_encoding_shows_any_name(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    console.escape_what_cannot_be_shown()
    console.show("straße\x1b[2J\nnext")
    assert stream.buffer.getvalue() == rb"stra\xdfe\x1b[2J" + b"\nnext\n"


def test_a_user_without_a_home_gets_no_cache():
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "UDA_JAX_CACHE")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    code = (
        "import pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from uda_jax.cli.environment import prepare_jax\n"
        "prepare_jax()\n"
        "import jax\nassert jax.config.jax_compilation_cache_dir is None\n"
        "from uda_jax.cli import main\n"
        "raise SystemExit(main(['check', 'streets']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("there is no home folder to keep it in; set UDA_JAX_CACHE to a folder")


def overrides(*words):
    return parsed(words).overrides


def test_overrides_are_taken_out_before_options_of_several_values():
    words = ["evaluate", "--workdir", "runs/a", "runs/b", "--config.evaluation.final.root=my data/target"]
    options = parsed(words)
    assert [str(folder) for folder in options.workdir] == ["runs/a", "runs/b"]
    assert options.overrides == ("--config.evaluation.final.root=my data/target",) and options.words == words
    settings = "--config.data.source.options={'a': 1, 'b': [2, 3]}"
    assert overrides("evaluate", "--workdir", "a", settings, "--on", "dev") == (settings,)
    assert overrides("train", settings, "--workdir", "a", "--config", "advent:smoke") == (settings,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.train.steps", "3"], "write --config.train.steps=3"),
        (["--config.x", "-1.5"], "write --config.x=-1.5"),
        (["--config.x", "my data"], "write '--config.x=my data'"),
        (["--config.x"], "write --config.x=value"),
        (["--config.x", "--workdir", "a"], "write --config.x=value"),
        (
            ["--config.x=my", "data"],
            "expected an option after it, got 'data'; for a value with spaces, '--config.x=my d",
        ),
        (["--workdir", "a", "--config.x=1", "b"], "expected an option after it, got 'b'"),
    ],
)
def test_words_that_belong_to_an_override_are_named(words, message):
    with pytest.raises(UserError) as caught:
        overrides("evaluate", *words)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--batch-size", "0"], "at least 1, got '0'"),
        (["predict", "--batch-size", "-1"], "at least 1, got '-1'"),
        (["predict", "--batch-size", "two"], "at least 1, got 'two'"),
        (["check", "folder", "--workers", "-1"], "at least 0, got '-1'"),
        (["prepare", "folder", "--workers", "0"], "at least 1, got '0'"),
    ],
)
def test_counts_have_bounds(words, message, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and line.endswith(f"; see 'uda {words[0]} --help'")


def test_what_no_command_takes_is_told_with_that_commands_help(capsys):
    behind = "give what has no option's name before the options, or "
    for words, remedy in (
        (["datasets", "x"], ""),
        (["report", "a", "--x"], ""),
        (["inspect", "a", "--json", "b"], behind),
    ):
        assert main(words) == 2
        expected = f"unrecognized arguments: {words[-1]}; {remedy}see 'uda {words[0]} --help'\n"
        assert capsys.readouterr().err.endswith(expected)


def test_every_option_says_what_it_is_for():
    (commands,) = [action for action in _parser()._actions if action.dest == "command"]
    for name, command in commands.choices.items():
        assert [action.dest for action in command._actions if not action.help] == [], name
        # Where fields may be set, the help says how.
        assert ("--config." in (command.epilog or "")) == command.get_default("takes_overrides"), name


def test_no_word_at_all_is_one_line(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("uda: error: the following arguments are required: command")


@pytest.mark.parametrize(
    "word",
    [
        "config.train.steps=3",
        "--train.steps=3",
        "\u2013-config.train.steps=3",
        "\u2014config.train.steps=3",
        "-\u2013train.steps=3",
    ],
)
def test_what_is_nearly_an_override_is_told_with_the_right_word(word):
    with pytest.raises(UserError, match="expected an override; write --config.train.steps=3$"):
        parsed(["train", "--config", "advent:streets", "--workdir", "x", word])


@pytest.mark.parametrize("word", ["--workdir=a.b=c", "--input=x.png"])
def test_options_are_no_overrides(word):
    words = ["predict", "--workdir", "x", "--input", "y", "--output", "z", word]
    assert parsed(words).words == words
