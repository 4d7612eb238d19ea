"""Benchmarks: which domains a run trains on and how it is scored, the same for every method.

A setting is the part of a config's name after the colon. `get` returns it as an `Experiment` without a method,
to which a config file adds its own; `domains` picks the training domains the method uses.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from uda_jax.config import Evaluation, Experiment, Train
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean

IMAGE_ONLY = ("image",)

# The settings that are no paper's.
OWN = ("streets", "smoke", "streets_camvid", "streets_idd", "camvid_day2dusk", "blobs", "folder")

# Labelled target images of a semi-supervised row that names no number.
FEW_LABELS = 50


def streets() -> Experiment:
    """The built-in simulator-to-camera task, 96x192, made for two CPU cores."""
    flip = {"dataset": "streets", "flip": True}
    return Experiment(
        benchmark="streets",
        data={
            "source": Domain(split="simulator_train", **flip),
            "labelled_target": Domain(split="camera_train", **flip),
            "target": Domain(split="camera_train", fields=IMAGE_ONLY, **flip),
        },
        train=Train(steps=1000, batch_size=4, log_every=100, checkpoint_every=500),
        evaluation=Evaluation(
            final=Domain(dataset="streets", split="camera_val"),
            dev=Domain(dataset="streets", split="camera_dev"),
            batch_size=10,
        ),
    )


def smoke() -> Experiment:
    """A run of seconds on a handful of tiny frames of streets: does everything work?"""
    options = {"size": (48, 96), "limit": 8}
    tiny = streets()
    shrink = lambda domain: dataclasses.replace(domain, options=options)  # noqa: E731
    return dataclasses.replace(
        tiny,
        benchmark="smoke",
        data={name: shrink(domain) for name, domain in tiny.data.items()},
        train=Train(steps=4, batch_size=2, log_every=2, evaluate_every=2, checkpoint_every=2),
        evaluation=Evaluation(
            final=shrink(tiny.evaluation.final), dev=shrink(tiny.evaluation.dev), batch_size=4, pictures=2
        ),
    )


def streets_camvid() -> Experiment:
    """The built-in simulator to real frames: CamVid's 367 training frames without labels, 11 classes.

    The renderer's frames are as wide again as CamVid's; crops of them have its 4:3 at the same height.
    """
    size = (96, 128)
    camvid = {"dataset": "camvid", "root": "data/camvid", "size": size, "label_space": "camvid"}
    return _from_streets(
        "streets_camvid",
        Domain(split="train", **camvid),
        final=Domain(split="test", resize_label=False, **camvid),
        dev=Domain(split="val", resize_label=False, **camvid),
    )


def streets_idd() -> Experiment:
    """The built-in simulator to real frames: IDD-Lite's 1403 training frames without labels, 7 classes."""
    idd = {"dataset": "idd_lite", "root": "data/idd_lite", "size": (96, 136), "label_space": "idd_lite"}
    return _from_streets(
        "streets_idd",
        Domain(split="train", **idd),
        final=Domain(split="val_test", resize_label=False, **idd),
        dev=Domain(split="val_dev", resize_label=False, **idd),
    )


def _from_streets(name: str, camera: Domain, *, final: Domain, dev: Domain) -> Experiment:
    """Returns the task from streets' simulator, cropped to the camera's size, to a camera with the camera's classes."""
    simulator = {"dataset": "streets", "split": "simulator_train", "label_space": camera.label_space}
    camera = dataclasses.replace(camera, flip=True)
    return Experiment(
        benchmark=name,
        data={
            "source": Domain(crop=camera.size, flip=True, **simulator),
            "labelled_target": camera,
            "target": dataclasses.replace(camera, fields=IMAGE_ONLY),
        },
        train=Train(steps=1000, batch_size=4, log_every=100, checkpoint_every=500),
        evaluation=Evaluation(final=final, dev=dev, batch_size=4, protocol=camera.label_space),
    )


def camvid_day2dusk() -> Experiment:
    """Real frames: two daylight drives of CamVid with labels, one at dusk without. No dev split."""
    day = {"dataset": "camvid", "root": "data/camvid", "size": (176, 240), "flip": True}
    return Experiment(
        benchmark="camvid_day2dusk",
        data={
            "source": Domain(split="day_train", **day),
            "labelled_target": Domain(split="dusk_train", **day),
            "target": Domain(split="dusk_train", fields=IMAGE_ONLY, **day),
        },
        train=Train(steps=900, batch_size=4, log_every=100, checkpoint_every=450),
        evaluation=Evaluation(
            final=Domain(dataset="camvid", root="data/camvid", split="dusk_test", size=(176, 240), resize_label=False),
            batch_size=2,
        ),
    )


def blobs() -> Experiment:
    """Binary masks: generated pictures of two devices, 64x64, scored by the Dice of what is not background."""
    own = {"dataset": "blobs", "label_space": "own"}
    return Experiment(
        benchmark="blobs",
        data={
            "source": Domain(split="sharp_train", flip=True, **own),
            "labelled_target": Domain(split="soft_train", flip=True, **own),
            "target": Domain(split="soft_train", flip=True, fields=IMAGE_ONLY, **own),
        },
        train=Train(steps=600, batch_size=4, log_every=100, checkpoint_every=300),
        evaluation=Evaluation(
            final=Domain(split="soft_test", **own),
            dev=Domain(split="soft_dev", **own),
            batch_size=10,
            headline="dice",
            protocol="own",
        ),
    )


def folder() -> Experiment:
    """Your own images: one folder with labels, one without, one with labels to score on.

    Two images per domain fit all methods into a laptop of 16 GB (`uda plan`); an update averages two such batches.
    """
    own = {"dataset": "folder", "label_space": "own"}
    return Experiment(
        benchmark="folder",
        data={
            "source": Domain(root="data/source", split="train", size=(256, 512), flip=True, **own),
            "labelled_target": Domain(root="data/target", split="train", size=(256, 512), flip=True, **own),
            "target": Domain(root="data/target", split="train", size=(256, 512), flip=True, fields=IMAGE_ONLY, **own),
        },
        train=Train(steps=10_000, batch_size=2, accumulation=2, evaluate_every=2000, checkpoint_every=1000),
        evaluation=Evaluation(
            final=Domain(root="data/target", split="val", size=(256, 512), resize_label=False, **own),
            batch_size=1,
            protocol="own",
        ),
    )


def gta5_cityscapes() -> Experiment:
    """GTA5 -> Cityscapes with the sizes of AdaptSegNet and ADVENT; labels scored at full resolution."""
    return _to_cityscapes("gta5_cityscapes", Domain(dataset="gta5", root="data/gta5", size=(720, 1280)), "19")


def synthia_cityscapes() -> Experiment:
    """SYNTHIA -> Cityscapes, 16 classes, source at 1280x760 as in the authors' own later code (DADA)."""
    source = Domain(dataset="synthia", root="data/synthia", size=(760, 1280), label_space="16")
    return _to_cityscapes("synthia_cityscapes", source, "16")


def synscapes_cityscapes() -> Experiment:
    """Synscapes -> Cityscapes, 19 classes; the papers do not give the source's size, 1280x640 keeps its aspect."""
    source = Domain(dataset="synscapes", root="data/synscapes", size=(640, 1280))
    return _to_cityscapes("synscapes_cityscapes", source, "19")


def virtual_kitti_kitti() -> Experiment:
    """Virtual KITTI -> KITTI, 10 classes (GIO-Ada): crops of 320x512, scored on KITTI's 200 labelled frames.

    Those differ by a few pixels in size, and each is seen and scored at its own. KITTI's unlabelled frames are the
    target; it has no labelled ones but those that are scored on.
    """
    whole = {"label_space": "10", "size": (376, 1240)}
    city = {"dataset": "kitti", "root": "data/kitti", **whole}
    crop = {"crop": (320, 512), "flip": True}
    return Experiment(
        benchmark="virtual_kitti_kitti",
        data={
            "source": Domain(dataset="virtual_kitti", root="data/virtual_kitti", **whole, **crop),
            "target": Domain(split="test", fields=IMAGE_ONLY, **city, **crop),
        },
        train=Train(steps=60_000, batch_size=1, log_every=100, checkpoint_every=2000, workers=4),
        evaluation=Evaluation(final=Domain(split="train", **{**city, "size": None}), batch_size=1, protocol="10"),
    )


def cityscapes_acdc() -> Experiment:
    """Cityscapes -> ACDC, fog, night, rain and snow together (DAFormer), scored on its labelled validation split."""
    return _from_cityscapes("cityscapes_acdc", {"dataset": "acdc", "root": "data/acdc"}, "train")


def cityscapes_dark_zurich() -> Experiment:
    """Cityscapes -> Dark Zurich at night (DAFormer), scored on its 50 labelled frames."""
    target = {"dataset": "dark_zurich", "root": "data/dark_zurich"}
    return _from_cityscapes("cityscapes_dark_zurich", target, "train_night")


def synthetic_real() -> Experiment:
    """All rendered street scenes with the 19 classes -> three cities' cameras, scored on Cityscapes (VFM-UDA++).

    Frames are drawn as if those of all sources, and of all targets, were one set.
    """
    shared = {"label_space": "19", "size": (512, 1024)}
    rendered = {
        "synthia": Domain(dataset="synthia", root="data/synthia", weight=9400, **shared),
        "synscapes": Domain(dataset="synscapes", root="data/synscapes", weight=25_000, **shared),
        "urbansyn": Domain(dataset="urbansyn", root="data/urbansyn", weight=7539, **shared),
    }
    real = {
        "bdd100k": Domain(dataset="bdd100k", root="data/bdd100k", fields=IMAGE_ONLY, weight=7000, **shared),
        "mapillary": Domain(dataset="mapillary", root="data/mapillary", fields=IMAGE_ONLY, weight=18_000, **shared),
    }
    city = {"dataset": "cityscapes", "root": "data/cityscapes", **shared}
    return Experiment(
        benchmark="synthetic_real",
        data={
            "source": Domain(dataset="gta5", root="data/gta5", weight=24_966, mix=rendered, **shared),
            "target": Domain(split="train", fields=IMAGE_ONLY, weight=2975, mix=real, **city),
        },
        train=Train(steps=40_000, batch_size=2, log_every=100, checkpoint_every=4000, workers=4),
        evaluation=Evaluation(final=Domain(split="val", resize_label=False, **city), batch_size=1),
    )


def _from_cityscapes(name: str, target: dict[str, Any], split: str) -> Experiment:
    target = {**target, "size": (540, 960)}
    return Experiment(
        benchmark=name,
        data={
            "source": Domain(dataset="cityscapes", root="data/cityscapes", split="train", size=(512, 1024)),
            "target": Domain(split=split, fields=IMAGE_ONLY, **target),
        },
        train=Train(steps=40_000, batch_size=2, log_every=100, checkpoint_every=4000, workers=4),
        evaluation=Evaluation(final=Domain(split="val", resize_label=False, **target), batch_size=1),
    )


def _to_cityscapes(name: str, source: Domain, protocol: str) -> Experiment:
    city = {"dataset": "cityscapes", "root": "data/cityscapes", "size": (512, 1024), "label_space": protocol}
    return Experiment(
        benchmark=name,
        data={
            "source": source,
            "labelled_target": Domain(split="train", **city),
            "target": Domain(split="train", fields=IMAGE_ONLY, **city),
        },
        train=Train(steps=120_000, batch_size=1, log_every=100, checkpoint_every=2000, workers=4),
        evaluation=Evaluation(final=Domain(split="val", resize_label=False, **city), batch_size=1, protocol=protocol),
    )


SETTINGS: dict[str, Callable[[], Experiment]] = {
    "streets": streets,
    "smoke": smoke,
    "streets_camvid": streets_camvid,
    "streets_idd": streets_idd,
    "camvid_day2dusk": camvid_day2dusk,
    "blobs": blobs,
    "folder": folder,
    "gta5_cityscapes": gta5_cityscapes,
    "synthia_cityscapes": synthia_cityscapes,
    "synscapes_cityscapes": synscapes_cityscapes,
}


# For the configs that name them: they lack a domain that others need, and a recipe.
FURTHER_SETTINGS: dict[str, Callable[[], Experiment]] = {
    "virtual_kitti_kitti": virtual_kitti_kitti,
    "cityscapes_acdc": cityscapes_acdc,
    "cityscapes_dark_zurich": cityscapes_dark_zurich,
    "synthetic_real": synthetic_real,
}


def parse(setting: str, variants: Mapping[str, Any], published: Collection[str] = ()) -> tuple[str, Any]:
    """Splits "streets,oracle" into the benchmark and the config's own entry for the variant ("" is the plain one).

    Args:
      setting: what follows the colon.
      variants: the config's own.
      published: those that follow a paper so closely that only its benchmarks have them.

    Raises:
      UserError: an unknown variant, or one of `published` on another benchmark.
    """
    benchmark, _, variant = setting.partition(",")
    if variant not in variants:
        raise UserError(f"--config: unknown variant '{variant}'{did_you_mean(variant, filter(None, variants))}")
    if variant in published and benchmark in OWN:
        raise UserError(
            f"--config: variant '{variant}': expected a benchmark of the papers, such as gta5_cityscapes, got "
            f"'{benchmark}'; leave the variant out"
        )
    return benchmark, variants[variant]


def check_setting(setting: str, known: Collection[str], settings_of: Callable[[str], Collection[str]]) -> None:
    """Raises a UserError unless a config has a benchmark, and its variant there.

    Args:
      setting: what follows the colon.
      known: the config's benchmarks.
      settings_of: returns those that have a variant.
    """
    benchmark, _, variant = setting.partition(",")
    if benchmark not in known:
        raise UserError(f"--config: unknown setting '{benchmark}'{did_you_mean(benchmark, known)}")
    if benchmark not in (having := settings_of(variant)):
        raise UserError(
            f"--config: expected a setting that has the variant '{variant}', {', '.join(having)}, got '{benchmark}'"
        )


def with_labels(experiment: Experiment, count: int | None) -> Experiment:
    """Returns an experiment that knows the labels of so many target images, chosen at random; None = of all.

    A smaller choice is part of a larger one, but that streets has a list of its own for 50 and fewer. In a folder of
    one's own, all labelled images are what there is, and in smoke a few are enough.
    """
    domain = experiment.data["labelled_target"]
    if count is not None and experiment.benchmark == "smoke":
        count = min(count, 4)
    if count == FEW_LABELS and experiment.benchmark == "folder":
        count = None
    if count is not None and count <= FEW_LABELS and domain.dataset == "streets":
        domain = dataclasses.replace(domain, split="camera_labelled")
    domain = dataclasses.replace(domain, count=count)
    return dataclasses.replace(experiment, data=experiment.data | {"labelled_target": domain})


def with_dice(experiment: Experiment) -> Experiment:
    """Returns an experiment that is headed by the mean Dice of what is not background, as medical tasks are.

    In a folder of one's own, the target's labelled images are then a split of their own, "labelled", beside the many
    of "train" that nobody labelled; and frames are squares, which medical images are closer to than to a street's 1:2.
    """
    evaluation = dataclasses.replace(experiment.evaluation, headline="dice")
    if experiment.benchmark != "folder":
        return dataclasses.replace(experiment, evaluation=evaluation)
    square = lambda domain: dataclasses.replace(domain, size=(256, 256))  # noqa: E731
    data = {name: square(domain) for name, domain in experiment.data.items()}
    if "labelled_target" in data:
        data["labelled_target"] = dataclasses.replace(data["labelled_target"], split="labelled")
    return dataclasses.replace(
        experiment, data=data, evaluation=dataclasses.replace(evaluation, final=square(evaluation.final))
    )


def with_depth(experiment: Experiment, *, exact: bool = False) -> Experiment:
    """Returns an experiment whose training domains hold depth, as far as the benchmark has any.

    Streets' simulator knows its depth; that of its camera comes from block matching on a stereo pair, unless `exact`
    asks for the renderer's. GTA5 has the relative disparity of CorDA's monocular network instead, Cityscapes the
    completed stereo depth that CorDA takes.

    Raises:
      UserError: a benchmark without depth.
    """
    sources = {
        "gta5": {"fields": ("disparity",), "options": {"depth": "monocular"}, "disparity_resampling": "bilinear"},
        "cityscapes": {"fields": ("depth",), "options": {"depth": "stereo"}},
        "synthia": {"fields": ("depth",), "options": {}},
        "virtual_kitti": {"fields": ("depth",), "options": {}},
        "streets": {"fields": ("depth",), "options": {}},
        "folder": {"fields": ("depth",), "options": {}},
    }
    data = {}
    for name, domain in experiment.data.items():
        if domain.dataset not in sources:
            raise UserError(f"--config: expected a setting whose frames have depth, got '{experiment.benchmark}'")
        change = dict(sources[domain.dataset])
        options = (domain.options or {}) | change.pop("options")
        if domain.dataset == "streets" and domain.split.startswith("camera") and not exact:
            options["depth"] = "stereo"
        fields = (*domain.fields, *change.pop("fields"))
        data[name] = dataclasses.replace(domain, fields=fields, options=options or None, **change)
    return dataclasses.replace(experiment, data=data)


def with_source_depth(experiment: Experiment) -> Experiment:
    """Returns an experiment whose source, and nothing else, holds depth; raises a UserError as `with_depth`."""
    source = with_depth(dataclasses.replace(experiment, data={"source": experiment.data["source"]}))
    return dataclasses.replace(experiment, data=experiment.data | source.data)


def get(setting: str, label: str, domains: tuple[str, ...], *, further: tuple[str, ...] = ()) -> Experiment:
    """Returns a benchmark without a method.

    Args:
      setting: a key of `SETTINGS`, or one of `further`.
      label: the row's name in tables.
      domains: the training domains to keep.
      further: the keys of `FURTHER_SETTINGS` that the config has.

    Raises:
      UserError: an unknown setting, or one without such a domain.
    """
    known = SETTINGS | {name: FURTHER_SETTINGS[name] for name in further}
    if setting not in known:
        raise UserError(f"--config: unknown setting '{setting}'{did_you_mean(setting, known)}")
    experiment = known[setting]()
    if missing := set(domains) - set(experiment.data):
        raise UserError(f"--config: expected a setting with the domain {min(missing)}, got '{setting}'")
    return dataclasses.replace(experiment, label=label, data={name: experiment.data[name] for name in domains})
