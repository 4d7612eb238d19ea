"""Label tables against the published ones, which are stored as golden arrays."""

import numpy as np
import pytest
import vectors

from uda_jax.data.labels import label_spaces
from uda_jax.data.labels.label_spaces import lookup_table
from uda_jax.errors import UserError

GOLDEN = vectors.load("datasets/luts.npz")


# How the stored arrays name data sets and protocols, and how this library does.
DATASETS = {"train19": "streets", "vkitti": "virtual_kitti", "camvid11": "camvid", "mapillary12": "mapillary"}
PROTOCOLS = {"train19": "19", "gio10": "10", "camvid11": "camvid"}
MAPPINGS = {"_recommended": "", "_strict": "_strict", "_mseg": "_mseg"}


def golden_tables():
    """Yields (key, data set, protocol) of every stored table."""
    for key in GOLDEN.files:
        dataset, arrow, protocol = key.replace("_id_to_", "_to_").partition("_to_")
        if arrow:
            mapping = next((word for word in MAPPINGS if protocol.endswith(word)), "")
            protocol = protocol.removesuffix(mapping)
            dataset = DATASETS.get(dataset, dataset) + MAPPINGS.get(mapping, "")
            yield key, dataset, PROTOCOLS.get(protocol, protocol)


@pytest.mark.parametrize(("key", "dataset", "protocol"), list(golden_tables()))
def test_tables_equal_the_published_ones(key, dataset, protocol):
    np.testing.assert_array_equal(lookup_table(dataset, protocol), GOLDEN[key])


def test_every_kind_of_table_is_compared():
    compared = {dataset for _, dataset, _ in golden_tables()}
    assert compared >= {"cityscapes", "gta5", "synthia", "kitti", "virtual_kitti", "camvid", "mapillary_mseg"}
    assert len(list(golden_tables())) == 28
    for same in ("acdc", "dark_zurich", "synscapes"):
        np.testing.assert_array_equal(lookup_table(same, "19"), GOLDEN["cityscapes_id_to_train19"])
    assert lookup_table("bdd100k", "19")[:20].tolist() == [*range(19), 255]
    assert lookup_table("camvid", "camvid")[:12].tolist() == [*range(11), 255]


def test_synthia_in_seven_classes_keeps_what_dada_left_out():
    clean, released = lookup_table("synthia", "7"), lookup_table("synthia", "7_dada")
    omitted = {12: 6, 17: 5, 19: 6, 21: 1}  # motorcycle, rider, bus, wall
    assert {k: clean[k] for k in omitted} == omitted and all(released[k] == 255 for k in omitted)
    assert released[22] == 0 and clean[22] == 255  # lane marking


@pytest.mark.parametrize(
    ("protocol", "key"),
    [("19", "train19"), ("16", "16"), ("13", "13"), ("10", "gio10"), ("7", "7"), ("plca19", "plca19")],
)
def test_names(protocol, key):
    assert label_spaces.label_space(protocol).names == tuple(GOLDEN[f"names_{key}"])


def test_camvid_classes():
    space = label_spaces.label_space("camvid")
    assert space.names == tuple(GOLDEN["names_camvid12"][:11])
    np.testing.assert_array_equal(np.array(space.colours), GOLDEN["palette_camvid12"][:11])


def test_known_ids():
    assert label_spaces.known_ids("gta5") - label_spaces.known_ids("cityscapes") == {34}
    assert label_spaces.known_ids("synthia") == set(range(23)) and max(label_spaces.known_ids("mapillary")) == 65
    with pytest.raises(UserError, match=r"no ids known of 'kiti'; did you mean 'kitti'\?"):
        label_spaces.known_ids("kiti")


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
