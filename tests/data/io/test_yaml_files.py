"""YAML of the user: read strictly, and never for long."""

import time

import pytest

from uda_jax.data.io.yaml_files import load_yaml

_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_what_it_says():
    assert load_yaml("classes: [a, b]\nids: [1, [2, 3]]\n") == {"classes": ["a", "b"], "ids": [1, [2, 3]]}
    assert load_yaml("3") == 3 and load_yaml("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands twice; remove one"),
        ("a: {b: 1, b: 2}", "the key 'b' stands twice"),
        (_LAUGHS, r"line 2: aliases \(\*a\) are not read; write the values out"),
        ("&a [*a]", "aliases"),
        ("[" * 100_000, "lists within lists deeper than 20"),
        ("{a: " * 2000, "lists within lists deeper than 20"),
        ("a: " + "x" * (1 << 20), "expected at most 1048576 characters"),
        ("a: [1", "not valid YAML"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
    ],
)
def test_what_is_refused(text, reason):
    start = time.monotonic()
    with pytest.raises(ValueError, match=reason) as caught:
        load_yaml(text)
    assert time.monotonic() - start < 20 and "\n" not in str(caught.value)
