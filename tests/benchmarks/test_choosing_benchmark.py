"""The decision table: made of the stored rows, with every method, and the page holds it."""

import pytest

from benchmarks import choosing
from uda_jax import methods


def row(benchmark, label, seed, value, seconds=10.0):
    figures = {"miou": {"19": value}, "protocol": "19", "iou": {"road": value}}
    return {"benchmark": benchmark, "label": label, "seed": seed, "seconds": seconds} | figures


def test_gains_are_paired_by_seed():
    rows = [row("streets", "source_only", seed, 0.1 * (seed + 1)) for seed in (0, 1)]
    rows += [row("streets", "dacs", seed, value, 25.0) for seed, value in ((0, 0.3), (1, 0.15), (2, 0.9))]
    assert choosing.gain(rows, "streets", "dacs") == "+7.5 (1 of 2)"
    assert choosing.gain(rows, "streets", "source_only") == "15.0"
    assert choosing.gain(rows, "streets", "mic") == "–" == choosing.gain(rows, "blobs", "dacs")
    assert choosing.time(rows, "dacs") == "2.5x" and choosing.time(rows, None) == "–"


def test_digits_are_compared_within_their_pair():
    rows = [row("digits", "a/source_only", 0, 0.5), row("digits", "b/source_only", 0, 0.7)]
    assert choosing.gain([*rows, row("digits", "b/inter", 0, 0.6)], "digits", "b/inter") == "-10.0 (0 of 1)"


def test_every_method_has_a_way():
    assert {way.method for way in choosing.WAYS} == set(methods.names())


def test_the_page_holds_what_the_rows_say():
    text = choosing.PAGE.read_text()
    assert text.count(choosing.BEGIN) == 1 == text.count(choosing.END)
    _, _, rest = text.partition(f"{choosing.BEGIN}\n")
    assert rest.partition(f"\n{choosing.END}")[0] == choosing.markdown(choosing.stored()), (
        "run benchmarks.choosing --write"
    )


@pytest.mark.parametrize(
    ("one", "other"), [("dacs", "advent"), ("corda", "dacs"), ("gio_ada", "dada"), ("ass", "corda")]
)
def test_what_the_page_recommends_first_gains_more_on_streets(one, other):
    rows = choosing.stored()
    gains = [float(choosing.gain(rows, "streets", label).split()[0]) for label in (one, other)]
    assert gains[0] > gains[1]
