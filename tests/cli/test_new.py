"""`uda new`, and what config files set by dotted paths; the version, and words that shells complete."""

import numpy as np
import pytest
from PIL import Image

import uda_jax
from uda_jax import config
from uda_jax.cli import main
from uda_jax.cli.main import parsed
from uda_jax.config import update
from uda_jax.errors import UserError
from uda_jax.runs import plan, results, stages, train


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    """The current folder, as `uda new` made it."""
    assert main(["new", str(tmp_path / "my project")]) == 0
    assert "README.md says where your frames go" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "my project")
    return tmp_path / "my project"


def put_frames(project):
    """Puts frames of 16x32 into a project, labelled by the ids of its own dataset.yaml."""
    generator = np.random.default_rng(0)
    for folder in (project / "data").glob("*/*/"):
        for i in range(2):
            image = generator.integers(0, 256, (16, 32, 3), np.uint8)
            Image.fromarray(image).save(folder / "images" / f"{i}.png")
            if (folder / "labels").is_dir():
                label = generator.choice(np.array([7, 11, 24, 26, 0], np.uint8), (16, 32))
                Image.fromarray(label).save(folder / "labels" / f"{i}.png")


TINY = ["--config.method.segmenter.name=deeplab_v2_resnet14", "--config.method.segmenter.width=4"]
TINY += ["--config.evaluation.final.size=16,32", "--config.train.steps=2", "--config.data.source.size=16,32"]


def test_a_new_project_checks_and_trains(project, capsys):
    put_frames(project)
    assert main(["check", "folder", "--root", "data/source"]) == 0
    assert "road" in capsys.readouterr().out
    words = [*TINY, "--config.train.accumulation=1", "--config.method.schedule.warmup=0"]
    experiment = config.experiment(config.load("config.py:source_only", words))
    assert (experiment.label, experiment.benchmark) == ("source_only", "my project")
    (row,) = train.run(experiment, project / "runs" / "first", results.Invocation("config.py:source_only"))
    assert row["benchmark"] == "my project" and set(row["iou"]) == {"road", "building", "person", "car"}
    adapted = config.experiment(config.load("config.py"))
    assert adapted.method["name"] == "dacs" and adapted.data["target"].size == (256, 512)
    (stage,) = stages.recipe(adapted, 4)
    assert plan.batch_before_data(stage)["target"]["image"].shape == (2, 256, 512, 3)


def test_the_commands_of_its_page_are_taken(project):
    commands = [line.split("#")[0].split()[1:] for line in (project / "README.md").read_text().splitlines()
                if line.startswith("uda ")]  # fmt: skip
    assert [parsed(words).command for words in commands] == ["check", "train", "train", "predict", "report"]


def test_folders_with_something_in_them_are_refused(project, tmp_path, capsys):
    assert main(["new", str(project)]) == 2
    assert capsys.readouterr().err == f"uda: error: uda new {project}: the folder is not empty; name a new one\n"
    assert main(["new", str(project / "README.md")]) == 2
    assert "expected a new folder, found a file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["new", str(tmp_path / "empty")]) == 0 and (tmp_path / "empty" / "config.py").exists()


def test_a_config_is_updated_as_by_overrides():
    by_word, by_value = config.load("advent:smoke"), config.load("advent:smoke")
    words = [
        "train.steps=90",
        "data.source.size=8,16",
        "method.segmenter.name=deeplab_v2_resnet50",
        "train.profile=1:2",
    ]
    config.override(by_word, [f"--config.{word}" for word in words])
    update(by_value, "train.steps", 90)
    update(by_value, "data.source.size", [8, 16])
    update(by_value, "method.segmenter.name", "deeplab_v2_resnet50")
    update(by_value, "train.profile", "1:2")
    assert config.experiment(by_value) == config.experiment(by_word)
    update(by_value, "train.profile", None)
    assert config.experiment(by_value).train.profile is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.stps", 3, "^config.train.stps: unknown field; did you mean 'steps'"),
        ("train.steps.more", 3, "^config.train.steps.more: unknown field"),
        ("train.steps", "many", "^config.train.steps: expected another type of value, got 'many'"),
        ("method.segmenter.name", "deplab", "config.method.segmenter"),
    ],
)
def test_updates_that_do_not_fit_are_one_line(path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        update(config.load("advent:smoke"), path, value)
    assert "\n" not in str(caught.value)


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"uda_jax {uda_jax.__version__}\n"


def test_shells_complete_commands_and_configs(capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert "advent:streets" in script and "--ignore-memory" in script
    assert main(["--print-completion", "fish"]) == 2


@pytest.mark.parametrize("what", ["methods", "datasets"])
def test_lists_say_when_to_take_which(what, capsys):
    from uda_jax import data, methods

    names = {"methods": methods.names, "datasets": data.dataset_names}[what]()
    assert main([what]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in names:
        (at,) = [i for i, line in enumerate(lines) if line.split()[0] == name and not line.startswith(" " * 8)][:1]
        assert lines[at + 1].strip().startswith("Take it "), name


def test_a_project_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uda_jax.data.io.atomic.write", full)
    assert main(["new", str(tmp_path / "x")]) == 2
    assert not list(tmp_path.iterdir())
