"""Names out of data as names of files."""

import itertools
from pathlib import Path

import pytest

from uda_jax.data.io import names

PLAIN = ["a", "f.0.12", "f.0.13", "a b", "straße_日本", "-dash", "50%_off", "a_b", "x" * 180, "12:30", "~"]
ODD = [
    *("", ".", "..", "...", "/", "//", "../x", "/etc/passwd", "a/../b", "a/./b", ".hidden", "a\\b", "a\x00b", "a\x1bb"),
    *(
        "a\nb",
        "x" * 181,
        "é" * 150,
        "x" * 5000,
        "\udcff",
        "a/b",
        "a__b",
        "a_/b",
        "a/_b",
        "a//b",
        "/a",
        "a/",
        "日" * 100,
    ),
    *("../../../../tmp/x", "x" * 200 + "1", "x" * 200 + "2", "A/../../b"),
]


@pytest.mark.parametrize("name", [*PLAIN, *ODD])
def test_a_component_is_one_harmless_name(name):
    found = names.component(name)
    assert found == name or name in ODD
    assert found and "/" not in found and not found.startswith(".") and found.isprintable()
    assert len(found.encode()) <= names.LONGEST
    assert Path("folder", found).resolve().parent == Path("folder").resolve()


def test_no_two_become_one():
    assert len({names.component(name) for name in {*PLAIN, *ODD}}) == len({*PLAIN, *ODD})
    short = ["".join(letters) for n in range(1, 6) for letters in itertools.product("a/_.", repeat=n)]
    assert len({names.component(name) for name in short}) == len(short)


@pytest.mark.parametrize("name", [*PLAIN, *ODD, "seq/1/f.0", "seq/../../f", "seq/" + "y" * 300])
def test_below_stays_below(name, tmp_path):
    found = names.below(tmp_path, name)
    assert found.resolve().is_relative_to(tmp_path) and found != tmp_path
    assert all(len(part.encode()) <= names.LONGEST for part in found.relative_to(tmp_path).parts)


def test_folders_stay():
    assert names.below(Path("out"), "seq__1/f.0.12") == Path("out/seq__1/f.0.12")
    assert names.component("town/a.b") == "town__a.b"
