"""Label tables against the published ones, which are stored as golden arrays."""

from pathlib import Path

import numpy as np
import pytest

from uda_jax.data import label_spaces
from uda_jax.data.label_spaces import lookup_table
from uda_jax.errors import UserError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "datasets" / "luts.npz")


@pytest.mark.parametrize(
    ("dataset", "protocol", "key"),
    [
        ("cityscapes", "19", "cityscapes_id_to_train19"),
        ("gta5", "19", "gta5_id_to_train19"),
        ("cityscapes", "16", "cityscapes_id_to_16"),
        ("cityscapes", "13", "cityscapes_id_to_13"),
        ("cityscapes", "10", "cityscapes_id_to_gio10"),
        ("cityscapes", "7", "cityscapes_id_to_7"),
        ("camvid", "19", "camvid11_to_train19"),
        ("streets", "16", "train19_to_16"),
        ("streets", "13", "train19_to_13"),
        ("streets", "10", "train19_to_gio10"),
        ("streets", "7", "train19_to_7"),
    ],
)
def test_tables_equal_the_published_ones(dataset, protocol, key):
    np.testing.assert_array_equal(lookup_table(dataset, protocol), GOLDEN[key])


@pytest.mark.parametrize(
    ("protocol", "key"), [("19", "train19"), ("16", "16"), ("13", "13"), ("10", "gio10"), ("7", "7")]
)
def test_names(protocol, key):
    assert label_spaces.label_space(protocol).names == tuple(GOLDEN[f"names_{key}"])


def test_palette_and_ids():
    np.testing.assert_array_equal(label_spaces.PALETTE, GOLDEN["palette_train19"])
    assert tuple(row.name for row in label_spaces.CITYSCAPES) == tuple(GOLDEN["names_cityscapes34"])
    assert [row.id for row in label_spaces.CITYSCAPES] == list(range(34))
    assert label_spaces.PROTOCOL_CLASSES["16"] == tuple(GOLDEN["class16_in_train19"])
    assert label_spaces.PROTOCOL_CLASSES["13"] == tuple(GOLDEN["class13_in_train19"])


@pytest.mark.parametrize("protocol", label_spaces.PROTOCOLS)
def test_tables_and_label_spaces_agree(protocol):
    table = lookup_table("cityscapes", protocol)
    space = label_spaces.label_space(protocol)
    assert set(table.tolist()) == {*range(len(space.names)), 255}
    assert len(space.names) == len(space.colours)


def test_palette_paints_ignored_pixels_black():
    palette = label_spaces.label_space("16").palette
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert palette[9].tolist() == [70, 130, 180]  # sky is class 9 of 16
    assert palette[255].tolist() == [0, 0, 0]


def test_distinct_colours_are_distinct():
    assert len(set(label_spaces.distinct_colours(60))) == 60


def test_unknown_names():
    with pytest.raises(UserError, match=r"no label table for 'camvit'; did you mean 'camvid'\?"):
        lookup_table("camvit", "19")
    with pytest.raises(UserError, match="label_space: unknown protocol '18'; known: 19, 16, 13, 10, 7"):
        lookup_table("camvid", "18")
