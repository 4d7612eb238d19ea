"""One domain of a run: the config section, and the data set or the mixture of data sets that it opens.

Domains have names: source, labelled_target and target; and further ones of a kind, such as target_bdd.
"""

import contextlib
import contextvars
import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Any

from uda_jax.data import open_dataset, require_sound
from uda_jax.data.base import MAPS, Dataset, is_value_of_image, map_names, requested
from uda_jax.data.io import places
from uda_jax.data.pipeline import transforms
from uda_jax.data.pipeline.frame_lists import listed_positions, random_positions
from uda_jax.data.pipeline.margins import NAME, Margins
from uda_jax.data.pipeline.neighbours import with_neighbours
from uda_jax.data.pipeline.other_maps import OtherMap
from uda_jax.data.pipeline.rare_class_sampling import RareClasses
from uda_jax.data.pipeline.transforms import Resampling
from uda_jax.data.pipeline.views import Mixture, PseudoLabelled, Selection
from uda_jax.errors import UserError
from uda_jax.schema import config_field, did_you_mean

# The kinds of domains: what they are to a method.
KINDS = ("source", "labelled_target", "target")
# Data sets that are open, by what they were opened with, within `opened_once`.
_OPEN: contextvars.ContextVar[dict[str, Dataset] | None] = contextvars.ContextVar("open data sets", default=None)

NO_MAP = "add it, leave the frame out with names_file, or take the map out of fields"


@dataclasses.dataclass(frozen=True)
class Domain:
    """One domain of a run: a data set and how its frames are prepared, in the order of the fields."""

    dataset: str = config_field("streets", "Name of the data set; 'uda datasets' lists them.")
    root: str | None = config_field(None, "Folder of the data set; None if it is not read from files.")
    split: str = config_field("train", "Split of the data set.")
    label_space: str = config_field(
        "19",
        "Class protocol of the labels: 19, 16, 13, 10, 7, 7_dada, plca19, plca16, camvid, idd_lite, or own (folder).",
    )
    options: dict[str, Any] | None = config_field(
        None, "Options that only this data set has, such as size and limit of streets."
    )
    names_file: str | None = config_field(
        None, "Text file with one frame name per line, or a list as papers publish them: keeps these, in this order."
    )
    count: int | None = config_field(None, "Frames to keep, chosen at random among those that are left.", low=1)
    count_seed: int = config_field(
        0, "Seed of that choice; a smaller count chooses some of those of a larger one.", low=0
    )
    labels_from: str | None = config_field(
        None,
        "Folder of <frame name>.png, values of the label space, in place of the data set's labels (pseudo-labels).",
    )
    images_from: str | None = config_field(
        None,
        "Folder of <frame name>.png or .jpg in place of the data set's images, such as those that a CycleGAN has "
        "translated; labels and depth stay.",
    )
    disparity_from: str | None = config_field(
        None,
        "Folder of <frame name>.png, 16-bit relative disparity as 'uda export-depth' writes it, in place of the data "
        "set's own, if it has any.",
    )
    fields: tuple[str, ...] = config_field(
        ("image", "label"),
        "Maps that a batch holds. image_previous and image_next come from the video around a frame where the data set "
        "has no such maps; frames without these neighbours are then left out. They, image_right, intrinsics and "
        "baseline are looked for only where they are named.",
        choices=MAPS.keys(),
    )
    size: tuple[int, int] | None = config_field(
        None, "(height, width) in pixels to resize frames to; None keeps theirs.", low=1
    )
    fit: str = config_field(
        "stretch",
        "How frames of another aspect ratio get that size; pad fills the rest, inside leaves it away, before a crop.",
        choices=("stretch", "pad", "inside"),
    )
    image_resampling: str = config_field(
        "bicubic",
        "Rule by which images are resized; opencv, bilinear without antialiasing, goes for labels and all else, too "
        "(mmsegmentation, DAFormer).",
        choices=("bicubic", "bilinear", "opencv"),
    )
    disparity_resampling: str = config_field(
        "nearest",
        "Rule by which disparity is resized, as it is where its files are of another size than the images (CorDA for "
        "GTA5: bilinear).",
        choices=("nearest", "bilinear"),
    )
    resize_label: bool = config_field(
        True, "Whether labels, depth and disparity are resized, too; False keeps their own size (evaluation)."
    )
    scale: tuple[float, float] | None = config_field(None, "Bounds of the random scale factor of a frame.", low=0.01)
    short_side: tuple[int, int] | None = config_field(
        None,
        "Bounds of the random length of a frame's shorter side in pixels (PLCA); flip comes before crop then.",
        low=1,
    )
    crop: tuple[int, int] | None = config_field(None, "(height, width) in pixels of the random crop.", low=1)
    crop_max_share: float = config_field(
        1.0,
        "Share of a crop's labelled pixels that a class may not fill; up to ten crops are drawn until none does and "
        "there are two classes (mmsegmentation: 0.75). 1 = any crop will do.",
        low=0.01,
        high=1.0,
    )
    margins: tuple[int, int, int, int] | None = config_field(
        None,
        "Pixels at the top, bottom, left and right of a resized frame in which the map 'distrust', which fields then "
        "has, is 1: pseudo-labels there do not count (DAFormer).",
        low=0,
    )
    distrust: tuple[float, float, float, float] | None = config_field(
        None,
        "The same as shares of the height and width of a frame as it is stored (VFM-UDA: 0.03, 0.25, 0.03, 0.03).",
        low=0.0,
        high=0.5,
    )
    flip: bool = config_field(False, "Whether to mirror frames left and right at random.")
    rare_classes: RareClasses | None = config_field(
        None, "How to draw frames by the classes they show, rare ones more often; None draws all frames alike."
    )
    mix: dict[str, "Domain"] | None = config_field(None, "Further data sets mixed in, by a name of your choice.")
    weight: float = config_field(1.0, "Share of this data set in a mixture, relative to those of the others.", low=1e-6)

    @property
    def resampling(self) -> Resampling:
        """The two rules of resampling."""
        return Resampling(self.image_resampling, self.disparity_resampling)

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other, and for data elsewhere than in local files."""
        for field in ("root", "names_file", "labels_from", "images_from", "disparity_from"):
            if getattr(self, field) is not None:
                places.local(getattr(self, field), f"{path}.{field}")
        if "image" not in self.fields or len(set(self.fields)) != len(self.fields):
            raise UserError(f"{path}.fields: expected 'image' and each map once, got {self.fields!r}")
        for field in ("scale", "short_side"):
            bounds = getattr(self, field)
            if bounds is not None and bounds[0] > bounds[1]:
                raise UserError(f"{path}.{field}: expected (low, high), got {bounds!r}")
            if bounds is not None and self.crop is None:
                raise UserError(
                    f"{path}.crop: expected a size, since '{path}.{field}' makes frames of many sizes, got None"
                )
        if self.scale and self.short_side:
            raise UserError(f"{path}.short_side: expected None together with '{path}.scale', got {self.short_side!r}")
        if not self.resize_label and (self.scale or self.short_side or self.crop or self.flip):
            raise UserError(f"{path}.resize_label: expected True together with scale, crop or flip, got False")
        if self.fit == "pad" and self.size is None:
            raise UserError(f"{path}.fit: expected 'stretch' without a size, got 'pad'")
        if self.fit == "inside" and self.crop is None:
            raise UserError(f"{path}.crop: expected a size, since '{path}.fit' makes frames of many sizes, got None")
        if self.margins is not None and NAME not in self.fields:
            raise UserError(f"{path}.margins: expected None, since '{path}.fields' has no {NAME}, got {self.margins}")
        if self.images_from is not None:
            # Other pictures may have another size, and there are none of the frames before and after.
            for field in self.fields:
                if field in MAPS and (MAPS[field].geometry == "camera" or field.startswith("image_")):
                    raise UserError(
                        f"{path}.images_from: expected None, since '{path}.fields' has {field}, got a value"
                    )
        if self.distrust is not None and NAME not in self.fields:
            raise UserError(f"{path}.distrust: expected None, since '{path}.fields' has no {NAME}, got {self.distrust}")
        if self.distrust is not None and self.margins is not None:
            raise UserError(f"{path}.distrust: expected None together with '{path}.margins', got {self.distrust}")
        if self.crop_max_share < 1 and (self.crop is None or "label" not in self.fields):
            raise UserError(f"{path}.crop_max_share: expected 1.0 without crops of labels, got {self.crop_max_share}")
        for field, needed in (("labels_from", "label"), ("rare_classes", "label"), ("disparity_from", "disparity")):
            if getattr(self, field) is not None and needed not in self.fields:
                raise UserError(f"{path}.{field}: expected None, since '{path}.fields' has no {needed}, got a value")
        for name, member in (self.mix or {}).items():
            if member.mix is not None:
                raise UserError(f"{path}.mix.{name}.mix: expected None, since it is part of a mixture itself")
            if set(member.fields) != set(self.fields):
                raise UserError(
                    f"{path}.mix.{name}.fields: expected the maps of '{path}.fields' {self.fields!r}, got "
                    f"{member.fields!r}"
                )


def check_name(name: str, path: str) -> None:
    """Raises a UserError unless a domain's name is one of `KINDS`, or begins with one and an underscore: target_bdd."""
    if name not in KINDS and not any(name.startswith(f"{kind}_") and name != f"{kind}_" for kind in KINDS):
        raise UserError(
            f"{path}.{name}: unknown domain{did_you_mean(name, KINDS)}; further domains are named after these, such as "
            "target_bdd"
        )


def members(domain: Domain, path: str = "domain") -> dict[str, tuple[str, Domain]]:
    """Returns the parts of a mixture, the domain itself first: {name: (dotted name of its section, section)}."""
    alone = {domain.dataset: (path, dataclasses.replace(domain, mix=None))}
    mixed = {name: (f"{path}.mix.{name}", member) for name, member in (domain.mix or {}).items()}
    if domain.dataset in mixed:
        raise UserError(f"{path}.mix.{domain.dataset}: the data set it is mixed into has this name; choose another")
    return alone | mixed


def open_domain(domain: Domain, path: str = "domain") -> Dataset:
    """Opens the data set of a domain, restricted to the frames and with the labels that it asks for.

    Args:
      domain: the section.
      path: dotted name of the section, which starts every message.

    Returns:
      The data set; `index` counts in it, restricted or not. With `mix`, a `views.Mixture`.

    Raises:
      UserError: anything wrong with the data set, the names file or the labels, a frame without a map that `fields`
        asks for, or data sets of different classes in a mixture.
    """
    if domain.mix:
        parts = members(domain, path)
        return Mixture({name: open_domain(member, where) for name, (where, member) in parts.items()}, path)
    try:
        dataset = _open_dataset(domain)
        _check_resized(domain, dataset)
        dataset = with_neighbours(dataset, domain.fields)
        if domain.names_file is not None:
            dataset = Selection(dataset, listed_positions(domain.names_file, dataset.names()))
        if domain.count is not None:
            dataset = Selection(dataset, random_positions(dataset.names(), domain.count, domain.count_seed))
        if domain.images_from is not None:
            dataset = OtherMap(dataset, domain.images_from)
        if domain.disparity_from is not None:
            dataset = OtherMap(dataset, domain.disparity_from, "disparity")
        if domain.labels_from is not None:
            dataset = PseudoLabelled(dataset, domain.labels_from, domain.size)
        if domain.distrust is not None:
            dataset = Margins(dataset, tuple(map(float, domain.distrust)), lambda size: size)
        if domain.margins is not None:
            dataset = Margins(dataset, domain.margins, functools.partial(resized_size, domain))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    require_maps(dataset, domain, path)
    return dataset


def resized(example: dict[str, Any], domain: Domain) -> dict[str, Any]:
    """Returns a frame at a domain's size, for training, for scoring and for predictions alike.

    Args:
      example: its maps.
      domain: says the size, the rules of resampling, and whether labels and the like are resized with the image. Those
        that keep their size are padded as the image is, at their own scale (DADA's rule for Mapillary).
    """
    if domain.size is None and not domain.resize_label:
        return example
    present = map_names(example, "domain")
    # Without a size, labels and depth of another one still get the image's.
    size = domain.size or example["image"].shape[:2]
    if domain.resize_label:
        return transforms.resize(example, size, resampling=domain.resampling, fit=domain.fit)
    maps = [field for field in present if MAPS[field].belongs_to_image]
    found = transforms.resize(example, size, maps=maps, resampling=domain.resampling, fit=domain.fit)
    for field in (field for field in present if field not in maps and MAPS[field].is_raster):
        if not is_value_of_image(field, found[field].shape, example["image"].shape):
            found[field] = transforms.extended(found[field], padded_size(domain, found[field].shape[:2]), field)
    return found


def resized_size(domain: Domain, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (height, width) that a domain gives to an image of a size, without what `resized` adds to it."""
    if domain.size is None:
        return size
    return transforms.fitted(size, domain.size, domain.fit)


def passed_over(domain: Domain, path: str) -> list[str]:
    """Returns notes on files beside those of a domain that are not read, and may have been meant to be."""
    notes = []
    for where, member in members(domain, path).values():
        # What a split lacks is for others to tell.
        opened = open_domain(dataclasses.replace(member, fields=("image", *requested(member.fields))), where)
        notes += [f"note: {where}: {note.message}" for note in opened.passed_over if note.field in member.fields]
    return notes


def padded_size(domain: Domain, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the size (height, width) of a frame together with what `resized` adds to it, at the frame's own scale."""
    if domain.size is None or domain.fit != "pad":
        return size
    inner = transforms.inside(size, domain.size)
    scaled = (round(side * whole / part) for side, whole, part in zip(size, domain.size, inner, strict=True))
    return tuple(map(max, size, scaled))


@contextlib.contextmanager
def opened_once() -> Iterator[None]:
    """Within the block, domains that read one data set share it: its folders are listed once and must not change."""
    token = _OPEN.set({})
    try:
        yield
    finally:
        _OPEN.reset(token)


def _open_dataset(domain: Domain) -> Dataset:
    where, options = (domain.dataset, domain.root, domain.split, domain.label_space), domain.options or {}
    fields, opened = requested(domain.fields), _OPEN.get()
    if opened is None:
        return open_dataset(*where, fields=fields, **options)
    key = json.dumps([*where, options, fields], sort_keys=True, default=str)
    if key not in opened:
        opened[key] = open_dataset(*where, fields=fields, **options)
    return opened[key]


def require_maps(dataset: Dataset, domain: Domain, path: str = "domain") -> None:
    """Raises a UserError unless every frame of an opened data set is sound and has the maps in a domain's `fields`."""
    try:
        require_sound(dataset, domain.dataset, domain.fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for field in domain.fields:
        if missing := dataset.missing(field):
            # What lies beside and is not read often says why.
            beside = "".join(f" ({note.message})" for note in dataset.passed_over if note.field == field)
            raise UserError(
                f"{path}.fields: {len(missing)} frames have no {field}, the first is '{missing[0]}'; {NO_MAP}{beside}"
            )


def _check_resized(domain: Domain, dataset: Dataset) -> None:
    """Raises a UserError if `uda prepare` resized to the wanted size by other rules than the domain's."""
    resized = dataset.resized
    if resized is None or domain.size is None or resized["size"] != list(domain.size):
        return
    matter = ["image_resampling", "fit", *(["disparity_resampling"] if "disparity" in domain.fields else [])]
    for field in matter:
        if (wanted := getattr(domain, field)) != resized[field]:
            raise UserError(
                f"{field}: {domain.root} was prepared with '{resized[field]}', asked for '{wanted}'; set the field, or "
                "prepare the data that way"
            )
