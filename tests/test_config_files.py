"""Config files of a user's own: whatever their code does, one line names the file and what is wrong."""

import pytest

from uda_jax import config
from uda_jax.errors import UserError

CONFIG = "from ml_collections import ConfigDict\nclass Odd(Exception): pass\ndef get_config({}):\n    {}\n"
ANY = CONFIG.format("setting=None", "return ConfigDict({'setting': setting})")


@pytest.mark.parametrize(
    ("text", "setting", "message"),
    [
        (CONFIG.format("", "return ConfigDict()"), ":x", "{path}:x: its get_config takes no setting; write {path}"),
        (CONFIG.format("setting", "return 1"), "", "{path}: its get_config takes a setting; write {path}:setting"),
        (CONFIG.format("", "return {}"), "", "{path}: expected get_config to return a ConfigDict, got dict"),
        (CONFIG.format("", "return 1 / 0"), "", "{path}, line 4: ZeroDivisionError: division by zero"),
        (CONFIG.format("", "raise TypeError('f() takes'\\\n 'x')"), "", "{path}, line 4: TypeError: f() takesx"),
        (CONFIG.format("", "raise Odd"), "", "{path}, line 4: Odd; mend"),
        (CONFIG.format("", "raise SystemExit(3)"), "", "{path}, line 4: SystemExit: 3"),
        (CONFIG.format("", "return open('no such file')"), "", "{path}, line 4: FileNotFoundError"),
        ("x = 1\nimport no_such_module\n", "", "{path}, line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(:\n", "", "{path}, line 1: SyntaxError"),
        ("x = '\x00'\n", "", "{path}"),
        ("get_config = 3\n", "", "{path}: expected a function get_config(setting) in it, found none"),
        ("from uda_jax.errors import UserError\nraise UserError('as it is')\n", "", "as it is"),
    ],
)
def test_mistakes_are_one_line_with_file_and_line(text, setting, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        config.load(f"{path}{setting}")
    assert message.format(path=path) in str(caught.value) and "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(b"x = '\xff'\n")
    with pytest.raises(UserError, match=str(path)):
        config.load(str(path))


def test_a_neighbour_is_imported_and_blamed(tmp_path):
    (tmp_path / "a_neighbour_of_mine.py").write_text("def broken():\n    return {}['x']\n")
    path = tmp_path / "mine.py"
    path.write_text("import a_neighbour_of_mine\n" + CONFIG.format("", "a_neighbour_of_mine.broken()"))
    with pytest.raises(UserError, match="a_neighbour_of_mine.py, line 2: KeyError: 'x'"):
        config.load(str(path))


def test_colons_in_a_path_and_in_a_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "C:\\x.py").write_text(ANY)
    assert config.load("C:\\x.py:y").setting == "y"
    assert config.load("C:\\x.py").setting is None
    assert config.load("C:\\x.py:y:z.py").setting == "y:z.py"


def test_absent_files_are_named(tmp_path):
    (tmp_path / "folder.py").mkdir()
    for name, reason in (("absent.py", "no such file"), ("folder.py", "expected a file, found a folder")):
        with pytest.raises(UserError, match=f"{name}: {reason}"):
            config.load(f"{tmp_path / name}:x")
    with pytest.raises(UserError, match="no packaged config of this name; known: adaptsegnet, advent"):
        config.load("qqqqqqqq")


@pytest.mark.parametrize("word", ["--config.rank.fraction=0.5", "--config.stages.rank.rank.fraction=0.5"])
def test_fields_of_before_are_pointed_to(word):
    with pytest.raises(UserError, match=r"it lies in the stage that ranks now, as --config\.stages\.rank\.kind\.frac"):
        config.load("intrada:streets", [word])
    with pytest.raises(UserError, match=r"stages\.<name>\.kind\.fraction"):
        config.load("advent:streets", ["--config.rank.fraction=0.5"])
