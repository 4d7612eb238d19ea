"""The label tables that ADVENT, IntraDA and DADA train with."""

import numpy as np
import pytest
import vectors

from uda_jax.data.labels.label_spaces import PROTOCOL_CLASSES, label_space, lookup_table

GOLDEN = vectors.load("advent-intrada/label_maps.npz")
IDS = GOLDEN["ids"]


@pytest.mark.parametrize(
    ("name", "dataset", "protocol"),
    [
        ("gta5_to_19", "gta5", "19"),
        ("cityscapes_to_19", "cityscapes", "19"),
        ("cityscapes_to_16", "cityscapes", "16"),
        ("synthia_to_16", "synthia", "16"),
    ],
)
def test_tables(name, dataset, protocol):
    assert len(IDS) == 256
    np.testing.assert_array_equal(lookup_table(dataset, protocol)[IDS], GOLDEN[name])


def test_synthia_in_the_numbering_of_the_19():
    # The reference drops terrain, truck and train, of which SYNTHIA's papers make no use.
    table = lookup_table("synthia", "19")[IDS]
    kept = np.isin(table, PROTOCOL_CLASSES["16"])
    np.testing.assert_array_equal(np.where(kept, table, 255), GOLDEN["synthia_to_19ids"])
    assert set(table[~kept].tolist()) == {9, 14, 16, 255}


def test_positions_of_the_classes():
    assert PROTOCOL_CLASSES["16"] == tuple(GOLDEN["index16_to_index19"])
    names = label_space("16").names
    assert label_space("13").names == tuple(names[k] for k in GOLDEN["index16_of_the_13"])
