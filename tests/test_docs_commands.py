"""Every command of README and docs is run, small: smoke settings, tiny frames, and few runs that stand for all.

What is not run is listed with its reason, and counted, so that a new command has to be run or decided upon. Sweeps are
run but for their trainings.
"""

import collections
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import stand_ins
from conftest import write_tiny_folder
from layouts import LAYOUTS, write_layout
from PIL import Image
from test_docs import DOCS, ROOT, commands

from uda_jax import config
from uda_jax.cli import main
from uda_jax.cli.main import parsed
from uda_jax.data.labels.descriptions import read_description
from uda_jax.data.labels.label_spaces import CLASS_NAMES

PAGES = [ROOT / "README.md", *DOCS]

# Patterns of commands that are not run, and why; the first that is found counts.
LEFT_OUT = {
    r"s3://": "needs a bucket; tests/runs/test_bucket_runs.py has one",
    r"--coordinator": "needs several processes; tests/runs/test_processes.py starts them",
    r"^plan .*--(platform|devices)": "lowers steps for other machines; tests/cli/test_plan.py, and see below",
    r"^methods --settings": "sizes the networks of all papers; tests/runs/test_published_settings.py does",
    r"^weights (get|check)|\.pth\b|init_from\.segmenter\.path=weights": "needs published weights",
    r"--dialect advent": "needs a ResNet-101; tests/runs/test_initial_weights.py writes networks",
    r"runs/plca": "needs a run of a further method; tests/methods/test_plca.py has the option",
    r"^train .*(gta5_cityscapes|camvid|pretrained|dinov2)": "needs published data or weights",
    r"^check gta5 .*--images-from": "needs translated images; tests/data/checks has some",
    r"^budget": "trains a run for each budget; tests/runs/test_budget.py trains small ones",
    r"^select": "compares runs of one target; tests/runs/test_selection.py has some",
    r"^verify": "replays steps of a run; tests/runs/test_receipts.py has small ones",
    r"^export-depth": "needs a run of depth; tests/runs/kinds/test_export_depth.py has one",
    r"^(check cityscapes|prepare kitti) .*--fields": "needs published recordings; tests/data/datasets writes some",
    r"--to onnx": "needs jax2onnx; tests/runs/test_deployment.py exports where it is installed",
    r"^train": "takes minutes; tests/test_smoke.py trains every config, and test_docs.py loads these",
}
# The commands that train the runs which the others use; another run's folder is a copy of the first.
TRAINED = {
    "runs/advent": "train --config advent:streets --workdir runs/advent",
    "runs/mine": "train --config advent:folder --workdir runs/mine",
    "runs/dacs": "train --config dacs:streets --workdir runs/dacs",
}
COPIES = ("a", "b", "source_only", "minent_er", "watched")
# What makes a command small, or of what is there.
SMALLER = {
    r"\b(streets|gta5_cityscapes)\b(?!/)": "smoke",
    "720x1280": "48x96",
    "1024x512": "96x48",
    "1280x720": "18x14",
    r"drive\.mp4": "drive.gif",
    "batch_size=128": "batch_size=32",
}
# What `folder` lacks of being small.
OWN = [f"--config.{domain}.size=32,64" for domain in ("data.source", "data.target", "evaluation.final")]
OWN += ["--config.train.steps=2", "--config.train.accumulation=1", "--config.method.schedule.warmup=0"]
OWN += ["--config.method.segmenter.width=4", "--config.method.discriminator.width=4"]


def inline(page):
    """Returns the words of whole `uda` commands in a page's text: no bare options, no capitals for what one has."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = [shlex.split(command)[1:] for command in re.findall(r"`(uda [^`]+)`", text)]
    named = lambda word: word != "..." and not word.isupper()  # noqa: E731
    given = lambda word: not word.startswith("-")  # noqa: E731
    return [words for words in found if any(map(given, words[1:])) and all(map(named, words))]


def all_commands():
    """Returns each command of the pages once, in their order, as one text."""
    listed = [words for page in PAGES for words in (*commands(page), *inline(page))]
    return list(dict.fromkeys(shlex.join(words) for words in listed if not words[0].startswith("-")))


def reason(command):
    """Returns why a command is not run; None if it is."""
    if command in TRAINED.values():
        return None
    return next((why for pattern, why in LEFT_OUT.items() if re.search(pattern, command)), None)


RUN = [command for command in all_commands() if reason(command) is None]


def small(command):
    """Returns the words of a command made small."""
    words = shlex.split(command)
    for pattern, smaller in SMALLER.items():
        words = [re.sub(pattern, smaller, word) for word in words]
    return words + (OWN if "advent:folder" in words and words[0] in ("train", "plan") else [])


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder of somebody who reads the pages and has what they speak of: frames, and the runs of `TRAINED`."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("UDA_JAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        for domain, unused in (("source", "val"), ("target", "train/labels")):
            write_tiny_folder(folder / "data" / domain, frames=2)
            shutil.rmtree(folder / "data" / domain / unused)
            (folder / "data" / domain / "dataset.yaml").write_text(f"classes: [{', '.join(CLASS_NAMES)}]\n")
        write_layout(LAYOUTS["gta5"], folder / "data" / "gta5")
        assert main(["new", "my_project"]) == 0
        shutil.copy("my_project/config.py", ".")
        write_frames(folder)
        for command in TRAINED.values():
            assert main(small(command)) == 0, command
        for name in COPIES:
            shutil.copytree("runs/advent", f"runs/{name}")
        yield folder


def write_frames(folder):
    """Writes what is predicted: frames, those of a test server, of a rig of two cameras, and of a video."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 96, 3), np.uint8)
    frames = [Image.fromarray(each) for each in noise]
    places = ("my_frames/{}.png", "frames/{}.png", "drive/monday/{}_left.png")
    places += ("data/cityscapes/leftImg8bit/test/berlin/berlin_000000_00000{}_leftImg8bit.png",)
    for place in places:
        for k, frame in enumerate(frames):
            path = folder / place.format(k)
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.save(path)
    frames[0].save(folder / "drive.gif", save_all=True, append_images=frames[1:])


def expanded(word):
    """Returns the words that a shell makes of one: the paths of a pattern that it is left to expand."""
    return sorted(map(str, Path().glob(word))) if word == "runs/*" else [word]


@pytest.mark.parametrize("command", RUN)
def test_command(reader, command, capsys, monkeypatch, tmp_path):
    if command.startswith("sweep"):
        stand_ins.replace_training(tmp_path, monkeypatch)
    words = [found for word in small(command) for found in expanded(word)]
    if words[0] in ("export", "predict", "new"):
        # These want a folder that holds nothing of another call.
        target = words[1] if words[0] == "new" else words[words.index("--output") + 1]
        shutil.rmtree(reader / target, ignore_errors=True)
    status = main(words)
    told = capsys.readouterr()
    # The set of noise that stands for GTA5 has a flaw or two, which a check has to say.
    assert status == 0 or (words[:2] == ["check", "gta5"] and status == 1), told.err
    assert told.out, "nothing was printed"


def test_planned_devices_share_the_batches():
    planned = [parsed(shlex.split(command)) for command in all_commands() if command.startswith("plan")]
    planned = [options for options in planned if options.devices]
    assert len(planned) > 2
    for options in planned:
        batch = config.experiment(config.load(options.config, options.overrides)).train.batch_size
        assert batch % options.devices == 0, options.words


def test_what_is_not_run_is_known():
    """Whoever writes a command that is not run changes a number here."""
    counts = collections.Counter(reason(command) for command in all_commands())
    assert [why for why in LEFT_OUT.values() if not counts[why]] == []
    assert set(TRAINED.values()) <= set(RUN)
    assert (counts.pop(None), counts.total()) == (60, 120)


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


def test_python_of_the_pages(reader):
    """All but the loaders, which tests/runs/test_deployment.py runs; and no page has code that none of the two runs."""
    assert {page.name for page in DOCS if "```python" in page.read_text()} == {"using.md", "deploying.md", "report.md"}
    given = {"image": np.zeros((48, 96, 3), np.uint8), "images": np.zeros((1, 48, 96, 3), np.uint8)}
    for page in ("using.md", "report.md", "deploying.md"):
        names = dict(given)
        exec(blocks(page, "python")[0], names)
        assert len(names) > len(given) + 1
    assert names["result"].labels.shape == (48, 96)


def test_the_description_of_the_page_is_read(tmp_path):
    (text,) = blocks("your-data.md", "yaml")
    (tmp_path / "dataset.yaml").write_text(text)
    found = read_description(tmp_path / "dataset.yaml")
    assert len(found.classes) == len(found.ids) == 5 and found.ignore is None
