"""Recipes of the papers beyond one source and one target: what their settings hold, and one on generated files."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from throwaway import Counting

from uda_jax import config, methods
from uda_jax.cli import main
from uda_jax.config import InitFrom
from uda_jax.errors import UserError
from uda_jax.report import tables
from uda_jax.runs import results, stages, states, train
from uda_jax.schema import config_field

SEVERAL = "intrada:gta5_cityscapes_mapillary_bdd"
TARGETS = ("cityscapes", "mapillary", "bdd100k")


@dataclasses.dataclass(frozen=True)
class Described(Counting):
    """The throw-away method as a section of a config."""

    num_classes: int = config_field(19, "Classes.")
    precision: str = config_field("fp32", "Not used.")
    accumulation: int = config_field(1, "Not used.")


def load(reference, *words):
    return config.experiment(config.load(reference, words))


def test_intrada_on_three_targets_draws_from_all_and_ranks_each():
    experiment = load(SEVERAL)
    assert experiment.benchmark == "gta5_cityscapes_mapillary_bdd" and experiment.label == "intrada"
    recipe = {stage.name: stage for stage in stages.recipe(experiment, num_classes=19)}
    assert list(recipe) == ["inter", *(f"rank_{name}" for name in TARGETS), "intra"]
    target = recipe["inter"].domains["target"]
    parts = {target.dataset: target} | target.mix
    assert {name: part.weight for name, part in parts.items()} == dict(zip(TARGETS, (2975, 18000, 7000), strict=True))
    assert {(part.size, part.fields, part.split) for part in parts.values()} == {((512, 1024), ("image",), "train")}
    for name in TARGETS:
        ranked = recipe[f"rank_{name}"].domains["target"]
        assert (ranked.dataset, ranked.mix) == (name, None)
        assert recipe[f"rank_{name}"].start_from["segmenter"].stage is recipe["inter"]
    for domain, file in (("source", "easy"), ("target", "hard")):
        first = recipe["intra"].domains[domain]
        parts = {first.dataset: first} | first.mix
        for name, part in parts.items():
            folder = f"{{workdir}}/rank_{name}"
            assert part.names_file == f"{folder}/{file}.txt"
            assert part.labels_from == (f"{folder}/pseudo_labels" if file == "easy" else None)
        assert sorted(parts) == sorted(TARGETS)
    finals = experiment.evaluation.splits("final")
    assert {name: (split.dataset, split.split, split.resize_label) for name, split in finals.items()} == {
        name: (name, "val", False) for name in TARGETS
    }
    assert (experiment.evaluation.joint, experiment.evaluation.batch_size) == ("mean", 1)
    assert recipe["intra"].method == stages.recipe(load("intrada:gta5_cityscapes"), num_classes=19)[-1].method


@pytest.fixture
def generated(tmp_path):
    """Two frames of each data set and split in its own layout; the sizes differ within Mapillary, too."""
    generator = np.random.default_rng(0)

    def write(image, label, size, values):
        for file in (image, label):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / image)
        Image.fromarray(generator.choice(np.uint8(values), size)).save(tmp_path / label)

    for k in (1, 2):
        write(f"gta5/images/0000{k}.png", f"gta5/labels/0000{k}.png", (20, 36), (7, 26))
    for split, part in (("train", "training"), ("val", "validation")):
        for k, size in ((0, (16, 32)), (1, (18, 24))):
            city = f"{split}/aachen/aachen_00000{k}_000019"
            images, labels = f"cityscapes/leftImg8bit/{city}_leftImg8bit", f"cityscapes/gtFine/{city}_gtFine_labelIds"
            write(f"{images}.png", f"{labels}.png", (16, 32), (7, 26))
            write(f"mapillary/{part}/images/{k}.jpg", f"mapillary/{part}/labels/{k}.png", size, (13, 55))
            masks = f"bdd100k/labels/sem_seg/masks/{split}/{k}.png"
            write(f"bdd100k/images/10k/{split}/{k}.jpg", masks, (18, 32), (0, 13))
    return tmp_path


def small(domain, root):
    """A domain of the generated files, at a small size."""
    mix = domain.mix and {name: small(member, root) for name, member in domain.mix.items()}
    return dataclasses.replace(domain, root=str(root / domain.dataset), size=(16, 32), mix=mix)


def test_three_targets_end_to_end_on_generated_files(generated, tmp_path, monkeypatch, capsys):
    """Every stage, list and row, with a method of milliseconds in place of the networks."""
    monkeypatch.setattr(methods, "get", lambda name: Described)
    experiment, counting = load(SEVERAL), {"name": "counting"}
    short = dataclasses.replace(experiment.train, steps=2, workers=0)
    plans = {
        name: dataclasses.replace(
            stage,
            method=counting,
            data=stage.data and {name: small(domain, generated) for name, domain in stage.data.items()},
            train=stage.train and short,
            kind=stage.kind | ({"fraction": 0.5, "batch_size": 1} if stage.kind["name"] == "rank" else {}),
            start_from=None if name == "intra" else stage.start_from,
        )
        for name, stage in experiment.stages.items()
    }
    finals = {name: small(domain, generated) for name, domain in experiment.evaluation.final.items()}
    experiment = dataclasses.replace(
        experiment,
        method=counting,
        init_from={},
        train=short,
        stages=plans,
        data={name: small(domain, generated) for name, domain in experiment.data.items()},
        evaluation=dataclasses.replace(experiment.evaluation, final=finals, pictures=1),
    )
    rows = train.run(experiment, tmp_path / "run", results.Invocation())
    assert [row["domain"] for row in rows] == ["bdd100k", "cityscapes", "mapillary", "joint"]
    *each, joint = rows
    assert joint["miou"]["19"] == pytest.approx(sum(row["miou"]["19"] for row in each) / 3)
    assert joint["split"] == "bdd100k/val + cityscapes/val + mapillary/val"
    assert f"{joint['benchmark']} (joint)" in tables.markdown(rows)
    for name in TARGETS:
        folder = tmp_path / "run" / f"rank_{name}"
        assert len((folder / "easy.txt").read_text().split()) == len((folder / "hard.txt").read_text().split()) == 1
        assert len(list((folder / "pseudo_labels").iterdir())) == 2
    for name in TARGETS:
        capsys.readouterr()
        assert main(["check", name, "--root", str(generated / name), "--split", "val", "--workers", "0"]) == 0
        assert f"{name} val: 2 frames" in capsys.readouterr().out


def test_the_ablation_without_pseudo_labels_goes_on_from_the_first_network():
    for reference in ("intrada:gta5_cityscapes,no_pseudo_labels", "intrada:smoke,no_pseudo_labels"):
        experiment = load(reference)
        *_, intra = stages.recipe(experiment, num_classes=19)
        assert intra.method.easy_weight == 0 and intra.start_from["segmenter"].stage.name == "inter"
        assert experiment.label == "intrada/no_pseudo_labels"
    assert stages.recipe(load("intrada:gta5_cityscapes"), num_classes=19)[-1].method.easy_weight == 1


def test_a_published_network_takes_the_place_of_the_first_stage():
    experiment = load("intrada:gta5_cityscapes,from_weights")
    rank, intra = stages.recipe(experiment, num_classes=19)
    assert (rank.name, intra.name) == ("rank", "intra") and not rank.start_from and not intra.start_from
    assert rank.init_from == {"segmenter": InitFrom(path="weights/gta2cityscapes_advent.pth")}
    assert rank.method == stages.recipe(load("advent:gta5_cityscapes"), num_classes=19)[0].method
    assert intra.init_from == stages.recipe(load("intrada:gta5_cityscapes"), num_classes=19)[-1].init_from
    with pytest.raises(UserError, match="config.init_from.segmenter.path: weights/gta2cityscapes_advent.pth: no such"):
        states.check_initial([rank])
    # Elsewhere the user names the network.
    word = "--config.stages.rank.init_from.segmenter.path=runs/mine"
    for setting in ("synthia_cityscapes", "smoke"):
        rank, _ = stages.recipe(load(f"intrada:{setting},from_weights", word), num_classes=19)
        assert rank.init_from["segmenter"].path == "runs/mine"


@pytest.mark.parametrize(
    ("reference", "folder"),
    [
        ("intrada:gta5_cityscapes,translated", "data/gta5_translated/images"),
        ("intrada:synthia_cityscapes,translated", "data/synthia_translated/RGB"),
        ("intrada:gta5_cityscapes_mapillary_bdd,translated", "data/gta5_translated/images"),
        ("dada:synthia_cityscapes,translated", "data/synthia_translated/RGB"),
    ],
)
def test_only_the_first_stages_source_is_translated(reference, folder):
    translated, plain = load(reference), load(reference.removesuffix(",translated"))
    first, *others = stages.recipe(translated, num_classes=19)
    assert first.domains["source"].images_from == folder and first.domains["target"].images_from is None
    original, *unchanged = stages.recipe(plain, num_classes=19)
    assert dataclasses.replace(first.domains["source"], images_from=None) == original.domains["source"]
    assert [stage.domains for stage in others] == [stage.domains for stage in unchanged]
    assert translated.label == f"{plain.label}/translated"


@pytest.mark.parametrize("reference", ["intrada:smoke,translated", "dada:streets,translated"])
def test_a_source_without_a_translated_copy_has_no_such_variant(reference):
    with pytest.raises(UserError, match="--config: variant 'translated': expected a benchmark"):
        config.load(reference)


@pytest.mark.parametrize("variant", ["", ",from_inter", ",no_pseudo_labels", ",from_weights"])
def test_on_synscapes_every_recipe_is_adaptsegnets(variant):
    experiment = load(f"intrada:synscapes_cityscapes{variant}")
    first = experiment.stages[experiment.recipe[0]].method
    assert first["name"] == "adaptsegnet" and experiment.method["discriminator_input"] == "probabilities"


def test_dada_on_mapillary_is_the_released_codes_second_task():
    experiment, first = load("dada:synthia_mapillary"), load("dada:synthia_cityscapes")
    source, target, final = *experiment.data.values(), experiment.evaluation.final
    assert (source.size, source.label_space, "depth" in source.fields) == ((760, 1280), "7_dada", True)
    for domain in (target, final):
        assert (domain.dataset, domain.size, domain.fit) == ("mapillary", (768, 1024), "pad")
        assert domain.label_space == "7_dada"
    assert (target.split, target.fields) == ("train", ("image",))
    assert (final.split, final.resize_label, experiment.evaluation.protocol) == ("val", False, "7")
    assert (experiment.train, experiment.method, experiment.init_from) == (first.train, first.method, first.init_from)


def test_kitti_is_scored_at_its_own_sizes():
    evaluation = load("gio_ada:virtual_kitti_kitti").evaluation
    assert evaluation.final.size is None and evaluation.batch_size == 1
