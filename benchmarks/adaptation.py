"""The results tables: every row and seed of a benchmark, one run after the other, resumable.

    python -m benchmarks.adaptation streets
    python -m benchmarks.adaptation camvid_day2dusk --seeds 0 1 2
    python -m benchmarks.adaptation digits --rows mnist_usps/cycada mnist_usps/intra
    python -m benchmarks.adaptation blobs                     scored by Dice
    python -m benchmarks.adaptation camvid_vgg16              what ImageNet's weights are worth
    python -m benchmarks.adaptation streets_camvid            the simulator to real frames, on a pretrained encoder

Each run is `uda train` in a folder of its own, so that running this again goes on where it stopped and passes over
what is done. Stages that a run of another row began with, on the same seed and settings, are copied from there. After
every run the rows so far go to benchmarks/results/<benchmark>.json, the file behind the published table. CamVid is
expected in data/camvid, MNIST and USPS in data/digits (see `uda datasets`), and VGG-16's convolutions as Caffe or Keras
have them, under torchvision's names, in weights/vgg16_imagenet_caffe_bgr.safetensors; a run without them ends at once
with a line that names what is missing.
"""

import argparse
import json
import operator
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from uda_jax import config, report
from uda_jax.data.io import atomic
from uda_jax.runs.workdir import difference
from uda_jax.training.layout import RunFiles

RESULTS = Path(__file__).parent / "results"

# Rows of each pair of digit sets. The last four go on where the one before ended, the first of them with CyCADA's pixel
# stage: together they are the accuracy after every stage of the last one.
DIGIT_ROWS = {
    "source_only": ",source_only",
    "inter": ",inter",
    "pixel": ",long,pixel",
    "cycada": ",long,cycada",
    "easy": ",long,easy",
    "intra": ",long",
}

# CamVid's day scored at dusk with VGG-16, at half the frames' size, which two cores take in minutes. In both rows new
# parts learn at the same rates, Adam's, since the maps of Caffe's VGG are a hundred times those of one that starts.
VGG16 = (
    "source_only:camvid_day2dusk --config.benchmark=camvid_vgg16 --config.method.segmenter.name=deeplab_v2_vgg16"
    " --config.method.segmenter.width=64 --config.data.source.size=96,128 --config.evaluation.final.size=96,128"
    " --config.train.steps=150 --config.train.batch_size=2 --config.evaluation.batch_size=2"
    " --config.method.optimiser.name=adamw"
)
VGG16_SCRATCH = (
    " --config.label=from_scratch --config.method.optimiser.learning_rate=5e-4"
    " --config.method.optimiser.head_multiplier=2"
)
VGG16_WEIGHTS = (
    " --config.label=imagenet --config.method.optimiser.learning_rate=1e-4"
    " --config.method.optimiser.head_multiplier=10 --config.method.optimiser.groups=(('encoder/fc',5.0,None),)"
    " --config.method.segmenter.input_norm=caffe_bgr --config.method.segmenter.encoder_init=uniform"
    " --config.init_from.segmenter.path=weights/vgg16_imagenet_caffe_bgr.safetensors"
    " --config.init_from.segmenter.dialect=caffe_vgg16"
    " --config.init_from.segmenter.fresh=('encoder/fc6','encoder/fc7','head')"
)

# Rows of every task whose network stands on an encoder that has seen ImageNet, the cheapest first; those of a source
# with depth, as streets' simulator has it; and those whose target has depth, too.
PRETRAINED_ROWS = {
    "source_only": "source_only:{}",
    "oracle": "source_only:{},oracle",
    "labelled_only": "source_only:{},labelled",
    "dacs": "dacs:{}",
    "advent": "advent:{}",
    "adaptsegnet": "adaptsegnet:{}",
    "plca": "plca:{}",
    "intrada": "intrada:{}",
    "ass": "ass:{}",
}
SOURCE_DEPTH_ROWS = {"dada": "dada:{}", "gio_ada": "gio_ada:{}"}
DEPTH_ROWS = {"corda": "corda:{}"}


def pretrained(setting: str, rows: Mapping[str, str]) -> dict[str, str]:
    """Returns rows of a setting with the pretrained encoder."""
    return {f"pretrained/{row}": f"{reference.format(setting)},pretrained" for row, reference in rows.items()}


# Benchmark -> row -> config and overrides.
ROWS = {
    "streets": {
        "source_only": "source_only:streets",
        "oracle": "source_only:streets,oracle",
        "adaptsegnet": "adaptsegnet:streets",
        "minent": "advent:streets,minent",
        "advent": "advent:streets",
        "advent_teacher": "advent_teacher:streets",
        "intrada": "intrada:streets",
        "labelled_only": "source_only:streets,labelled",
        "source_plus_labelled": "source_only:streets,both",
        "ass": "ass:streets",
        "ass_10": "ass:streets,10",
        "few_labels": "few_labels:streets",
        "few_labels/alone": "few_labels:streets,alone",
        "plca": "plca:streets",
        "dacs": "dacs:streets",
        "dacs_plca": "dacs_plca:streets",
        "corda": "corda:streets",
        "corda/exact_depth": "corda:streets,exact_depth",
        "corda/self_supervised": "corda:streets,self_supervised",
        "dada": "dada:streets",
        "gio_ada": "gio_ada:streets",
        "gio_ada/input_only": "gio_ada:streets,input_only",
        "gio_ada/output_only": "gio_ada:streets,output_only",
        "gio_ada/no_input_geometry": "gio_ada:streets,no_input_geometry",
        "gio_ada/no_output_geometry": "gio_ada:streets,no_output_geometry",
    },
    "camvid_day2dusk": {
        "source_only": "source_only:camvid_day2dusk",
        "oracle": "source_only:camvid_day2dusk,oracle",
        "adaptsegnet": "adaptsegnet:camvid_day2dusk",
        "advent": "advent:camvid_day2dusk",
        "plca": "plca:camvid_day2dusk",
        "dacs": "dacs:camvid_day2dusk",
    },
    "blobs": {
        "source_only": "source_only:blobs",
        "oracle": "source_only:blobs,oracle",
        "labelled_only_10": "source_only:blobs,labelled --config.data.labelled_target.count=10"
        " --config.label=labelled_only_10",
        "ass": "ass:blobs",
        "ass_10": "ass:blobs,10",
    },
    "streets_pretrained": pretrained("streets", PRETRAINED_ROWS | SOURCE_DEPTH_ROWS | DEPTH_ROWS),
    "streets_camvid": pretrained("streets_camvid", PRETRAINED_ROWS | SOURCE_DEPTH_ROWS),
    "streets_idd": pretrained("streets_idd", PRETRAINED_ROWS | SOURCE_DEPTH_ROWS),
    "camvid_day2dusk_pretrained": pretrained("camvid_day2dusk", PRETRAINED_ROWS),
    "camvid_vgg16": {
        "from_scratch": f"{VGG16}{VGG16_SCRATCH}",
        "imagenet": f"{VGG16}{VGG16_WEIGHTS}",
    },
    "digits": {
        f"{pair}/{row}": f"digits:{pair}{variant}"
        for pair in ("mnist_usps", "usps_mnist")
        for row, variant in DIGIT_ROWS.items()
    },
}


def main() -> int:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmark", choices=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="only these rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/table"), help="folder of the runs")
    options = parser.parse_args()
    references = ROWS[options.benchmark]
    if unknown := set(options.rows or ()) - set(references):
        parser.error(f"unknown rows {sorted(unknown)}; known: {', '.join(references)}")
    target = RESULTS / f"{options.benchmark}.json"
    for seed in options.seeds:
        for label in options.rows or references:
            workdir = options.runs / options.benchmark / label / f"seed{seed}"
            reference, *overrides = (*references[label].split(), f"--config.seed={seed}")
            words = ["train", "--config", reference, "--workdir", str(workdir), *overrides]
            print("uda", *words, file=sys.stderr, flush=True)
            if not workdir.exists():
                others = (options.runs / options.benchmark / other / f"seed{seed}" for other in references)
                copy_stages(reference, overrides, others, workdir)
            if status := subprocess.run([sys.executable, "-m", "uda_jax.cli", *words]).returncode:
                return status
            merge(target, json.loads(RunFiles(workdir).result.read_text()))
    print(report.markdown(report.read_rows(target)))
    return 0


def copy_stages(reference: str, overrides: Sequence[str], others: Iterable[Path], workdir: Path) -> None:
    """Starts a run with the stages that it has in common with finished runs, from the first one on.

    What a stage computes depends on its own settings, those before it, the seed and the files it starts from, as its
    checkpoints are known by (`workdir.difference`).
    """
    wanted = config.to_plain(config.experiment(config.load(reference, overrides)))
    for other in others:
        files = RunFiles(other)
        if not files.result.exists():
            continue
        found = json.loads(files.config.read_text())
        if found.pop("format", None) != config.FORMAT:  # of a version whose stages go on nowhere
            continue
        for name, done in zip(wanted["recipe"], found.get("recipe", ()), strict=False):
            if name != done or difference(wanted, found, stage=name):
                break
            if not (workdir / name).exists():
                shutil.copytree(other / name, workdir / name)


def merge(target: Path, rows: list[dict]) -> None:
    """Puts rows into a results file, in place of earlier ones of the same label, config and seed."""
    stored = json.loads(target.read_text()) if target.exists() else []
    run = operator.itemgetter("label", "config", "seed")
    replaced = set(map(run, rows))
    kept = [row for row in stored if run(row) not in replaced]
    rows = sorted(kept + rows, key=lambda row: (row["label"], row["seed"]))
    atomic.write(target, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
