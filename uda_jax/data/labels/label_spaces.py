"""Label spaces: class names, colours, and tables from stored ids to training ids.

Everything is data. The 34 Cityscapes ids are one table of named tuples; a protocol is a view of its 19 training
classes; a data set is one table from its stored ids to the 19 classes; and `lookup_table` composes the two. 255 means
"ignore" everywhere.

    "19"                  the Cityscapes training classes
    "16", "13"            those of SYNTHIA's papers ("mIoU" and "mIoU*")
    "10"                  Virtual KITTI to KITTI, in the order of GIO-Ada
    "7"                   the Cityscapes categories, in the order of DADA
    "7_dada"              the same, with the omissions of DADA's released table for SYNTHIA
    "plca19", "plca16"    the classes of "19" and "16" in the order of PLCA's published networks
    "camvid"              the 11 classes of CamVid
    "idd_lite"            the 7 classes of IDD-Lite
"""

import colorsys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from uda_jax.data.labels import label_tables
from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

IGNORE = 255

# A class of this name is what surrounds the structures of interest; means of Dice leave it out.
BACKGROUND = "background"


class CityscapesClass(NamedTuple):
    """One row of the Cityscapes label table."""

    name: str
    id: int
    train_id: int
    category: str
    colour: tuple[int, int, int]


# Ids, names, categories and colours as published with the Cityscapes labels. "license plate" has no id in
# the label files of Cityscapes and is stored as 34 in GTA5; like every unlisted id it is ignored.
CITYSCAPES = (
    CityscapesClass("unlabeled", 0, IGNORE, "void", (0, 0, 0)),
    CityscapesClass("ego vehicle", 1, IGNORE, "void", (0, 0, 0)),
    CityscapesClass("rectification border", 2, IGNORE, "void", (0, 0, 0)),
    CityscapesClass("out of roi", 3, IGNORE, "void", (0, 0, 0)),
    CityscapesClass("static", 4, IGNORE, "void", (0, 0, 0)),
    CityscapesClass("dynamic", 5, IGNORE, "void", (111, 74, 0)),
    CityscapesClass("ground", 6, IGNORE, "void", (81, 0, 81)),
    CityscapesClass("road", 7, 0, "flat", (128, 64, 128)),
    CityscapesClass("sidewalk", 8, 1, "flat", (244, 35, 232)),
    CityscapesClass("parking", 9, IGNORE, "flat", (250, 170, 160)),
    CityscapesClass("rail track", 10, IGNORE, "flat", (230, 150, 140)),
    CityscapesClass("building", 11, 2, "construction", (70, 70, 70)),
    CityscapesClass("wall", 12, 3, "construction", (102, 102, 156)),
    CityscapesClass("fence", 13, 4, "construction", (190, 153, 153)),
    CityscapesClass("guard rail", 14, IGNORE, "construction", (180, 165, 180)),
    CityscapesClass("bridge", 15, IGNORE, "construction", (150, 100, 100)),
    CityscapesClass("tunnel", 16, IGNORE, "construction", (150, 120, 90)),
    CityscapesClass("pole", 17, 5, "object", (153, 153, 153)),
    CityscapesClass("polegroup", 18, IGNORE, "object", (153, 153, 153)),
    CityscapesClass("traffic light", 19, 6, "object", (250, 170, 30)),
    CityscapesClass("traffic sign", 20, 7, "object", (220, 220, 0)),
    CityscapesClass("vegetation", 21, 8, "nature", (107, 142, 35)),
    CityscapesClass("terrain", 22, 9, "nature", (152, 251, 152)),
    CityscapesClass("sky", 23, 10, "sky", (70, 130, 180)),
    CityscapesClass("person", 24, 11, "human", (220, 20, 60)),
    CityscapesClass("rider", 25, 12, "human", (255, 0, 0)),
    CityscapesClass("car", 26, 13, "vehicle", (0, 0, 142)),
    CityscapesClass("truck", 27, 14, "vehicle", (0, 0, 70)),
    CityscapesClass("bus", 28, 15, "vehicle", (0, 60, 100)),
    CityscapesClass("caravan", 29, IGNORE, "vehicle", (0, 0, 90)),
    CityscapesClass("trailer", 30, IGNORE, "vehicle", (0, 0, 110)),
    CityscapesClass("train", 31, 16, "vehicle", (0, 80, 100)),
    CityscapesClass("motorcycle", 32, 17, "vehicle", (0, 0, 230)),
    CityscapesClass("bicycle", 33, 18, "vehicle", (119, 11, 32)),
)

TRAIN_CLASSES = tuple(sorted((row for row in CITYSCAPES if row.train_id != IGNORE), key=lambda row: row.train_id))
CLASS_NAMES = tuple(row.name for row in TRAIN_CLASSES)
PALETTE = np.array([row.colour for row in TRAIN_CLASSES], np.uint8)
PALETTE.setflags(write=False)

# Protocols that keep some of the 19 classes, in their order.
PROTOCOL_CLASSES = {
    "19": tuple(range(19)),
    "16": (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    "13": (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    "10": (0, 2, 5, 6, 7, 8, 9, 10, 13, 14),
    "plca16": (10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, 6, 12, 15, 3),
    "plca19": (10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, 6, 12, 15, 3, 9, 14, 16),
}
# Protocols that merge classes. A category is painted in the colour of its commonest member.
CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
_CATEGORY_COLOURS = PALETTE[[0, 2, 5, 8, 10, 11, 13]]
_CAMVID_CLASSES = tuple(row[0] for row in label_tables.CAMVID if row[1])
_IDD_LITE_CLASSES = tuple(name for name, _ in label_tables.IDD_LITE)

PROTOCOLS = ("19", "16", "13", "10", "7", "7_dada", "camvid", "idd_lite", "plca19", "plca16")


class LabelSpace(NamedTuple):
    """The classes that label values stand for: what evaluation counts and reports print.

    Attributes:
      names: K class names; label value k is the class `names[k]`.
      colours: K RGB triples, 0..255, for pictures.
      ignore: the label value of pixels without a class.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    ignore: int = IGNORE

    @property
    def palette(self) -> np.ndarray:
        """The colours as uint8 `[256, 3]`, black outside the classes: `palette[label]` is a picture."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self.colours)] = self.colours
        return palette


def label_space(protocol: str) -> LabelSpace:
    """Returns the names and colours of a protocol, one of `PROTOCOLS`."""
    _check_protocol(protocol)
    if protocol in ("7", "7_dada"):
        return LabelSpace(CATEGORIES, tuple(tuple(colour) for colour in _CATEGORY_COLOURS.tolist()))
    if protocol == "camvid":
        return LabelSpace(_CAMVID_CLASSES, tuple(row[2] for row in label_tables.CAMVID if row[1]))
    if protocol == "idd_lite":
        return LabelSpace(_IDD_LITE_CLASSES, tuple(colour for _, colour in label_tables.IDD_LITE))
    rows = [TRAIN_CLASSES[k] for k in PROTOCOL_CLASSES[protocol]]
    return LabelSpace(tuple(row.name for row in rows), tuple(row.colour for row in rows))


def train19_table(protocol: str) -> np.ndarray:
    """Returns the uint8 `[256]` table from the 19 training ids to the classes of a protocol."""
    _check_protocol(protocol)
    if protocol in ("7", "7_dada"):
        return _table({row.train_id: CATEGORIES.index(row.category) for row in TRAIN_CLASSES})
    if protocol == "camvid":
        return _named(label_tables.CITYSCAPES_AS_CAMVID, _CAMVID_CLASSES)
    if protocol == "idd_lite":
        return _named(label_tables.CITYSCAPES_AS_IDD_LITE, _IDD_LITE_CLASSES)
    return _table({train_id: k for k, train_id in enumerate(PROTOCOL_CLASSES[protocol])})


def classes_by_name(names: Sequence[str], protocol: str) -> np.ndarray:
    """Returns the classes of a protocol that have some Cityscapes names: uint8 `[K]`, 255 for other names."""
    train_ids = np.array([CLASS_NAMES.index(name) if name in CLASS_NAMES else IGNORE for name in names])
    return train19_table(protocol)[train_ids]


def _table(entries: dict[int, int]) -> np.ndarray:
    table = np.full(256, IGNORE, np.uint8)
    table[list(entries)] = list(entries.values())
    return table


def _named(names: Iterable[str], classes: Sequence[str] = CLASS_NAMES) -> np.ndarray:
    """Returns the table from the position of each name to its position among the classes."""
    return _table({k: classes.index(name) for k, name in enumerate(names) if name})


# Stored id -> one of the 19 training ids, per data set; and the tables that lead past the 19 classes.
_CITYSCAPES_IDS = _table({row.id: row.train_id for row in CITYSCAPES})
_TRAIN_IDS = _table({k: k for k in range(19)})
_RAW_TO_TRAIN19 = {
    "acdc": _CITYSCAPES_IDS,
    "bdd100k": _TRAIN_IDS,
    "camvid": _named(row[1] for row in label_tables.CAMVID),
    "cityscapes": _CITYSCAPES_IDS,
    "dark_zurich": _CITYSCAPES_IDS,
    "gta5": _CITYSCAPES_IDS,
    # Its classes merge those of Cityscapes; only the sky is one.
    "idd_lite": _table({6: CLASS_NAMES.index("sky")}),
    "kitti": _CITYSCAPES_IDS,
    "mapillary": _named(row[1] for row in label_tables.MAPILLARY),
    "mapillary_strict": _named(row[2] for row in label_tables.MAPILLARY),
    "mapillary_mseg": _named(row[3] for row in label_tables.MAPILLARY),
    "streets": _TRAIN_IDS,
    "synscapes": _CITYSCAPES_IDS,
    "synthia": _named(row[1] for row in label_tables.SYNTHIA),
    "urbansyn": _TRAIN_IDS,
    "virtual_kitti": _named(row[1] for row in label_tables.VIRTUAL_KITTI),
}
_DADA = _named((row[4] for row in label_tables.MAPILLARY), CATEGORIES)
_RAW_TO_PROTOCOL = {
    ("camvid", "camvid"): _named((row[0] if row[1] else "" for row in label_tables.CAMVID), _CAMVID_CLASSES),
    ("idd_lite", "idd_lite"): _table({k: k for k in range(len(label_tables.IDD_LITE))}),
    ("mapillary", "7"): _DADA,
    ("mapillary", "7_dada"): _DADA,
    ("synthia", "7_dada"): _named((row[2] for row in label_tables.SYNTHIA), CATEGORIES),
}
# The ids that occur in whole files of a data set. 34 is the license plate, which only GTA5 stores.
_CITYSCAPES_KNOWN = frozenset(range(34))
_KNOWN = {
    **dict.fromkeys(("acdc", "cityscapes", "dark_zurich", "kitti", "synscapes"), _CITYSCAPES_KNOWN),
    "gta5": frozenset(range(35)),
    **dict.fromkeys(("bdd100k", "streets"), frozenset(range(19)) | {IGNORE}),
    "camvid": frozenset(range(len(label_tables.CAMVID))),
    "idd_lite": frozenset(range(len(label_tables.IDD_LITE))) | {IGNORE},
    **dict.fromkeys(("mapillary", "mapillary_strict", "mapillary_mseg"), frozenset(range(len(label_tables.MAPILLARY)))),
    "synthia": frozenset(range(len(label_tables.SYNTHIA))),
    # 19 is what has no class.
    "urbansyn": frozenset(range(20)) | {IGNORE},
    "virtual_kitti": frozenset(range(len(label_tables.VIRTUAL_KITTI))),
}


def lookup_table(dataset: str, protocol: str) -> np.ndarray:
    """Returns the table from the ids that a data set stores to the classes of a protocol.

    Args:
      dataset: a data set with fixed ids, such as "gta5"; "mapillary" is the recommended mapping, beside
        "mapillary_strict" (equal names only) and "mapillary_mseg".
      protocol: one of `PROTOCOLS`.

    Returns:
      uint8 `[256]`; `table[raw_label]` maps a label map. Ids without a class give 255 (ignore).

    Raises:
      UserError: an unknown data set or protocol.
    """
    if dataset not in _RAW_TO_TRAIN19:
        raise UserError(f"dataset: no label table for '{dataset}'{did_you_mean(dataset, _RAW_TO_TRAIN19)}")
    _check_protocol(protocol)
    if (dataset, protocol) in _RAW_TO_PROTOCOL:
        return _RAW_TO_PROTOCOL[dataset, protocol].copy()
    return train19_table(protocol)[_RAW_TO_TRAIN19[dataset]]


def known_ids(dataset: str) -> frozenset[int]:
    """Returns the ids that a data set defines, with or without a class; others in a file are a sign of damage."""
    if dataset not in _KNOWN:
        raise UserError(f"dataset: no ids known of '{dataset}'{did_you_mean(dataset, _KNOWN)}")
    return _KNOWN[dataset]


def distinct_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Returns `count` RGB triples that are easy to tell apart, for classes that come without colours."""
    # Steps of the golden ratio never repeat a hue and keep neighbours in the list far apart.
    hues = [(0.61803398875 * k) % 1.0 for k in range(count)]
    return tuple(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.65, 0.95)) for hue in hues)


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(f"label_space: unknown protocol '{protocol}'; known: {', '.join(PROTOCOLS)}")
