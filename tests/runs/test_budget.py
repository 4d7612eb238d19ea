"""Budgets of labels: which runs there are and on which frames, the curve, the frames to label next."""

import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stand_ins
from PIL import Image
from throwaway import Counting

from uda_jax import ops
from uda_jax.cli import main
from uda_jax.data.pipeline import domains
from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.methods.base import Segmenter
from uda_jax.report import budget_page
from uda_jax.runs import budget, frame_measures, states
from uda_jax.runs.frame_measures import Measures
from uda_jax.runs.workdir import Workdir

# Stands in for `uda train`: a result that rises with the number of labels; and for measuring frames, which it counts.
PYTHON = """
import json, os, pathlib, sys
if "uda_jax.runs.frame_measures" in sys.argv:
    import numpy as np
    names = [f"{k:03}" for k in range(8)]
    with open(sys.argv[5], "wb") as file:
        np.savez(file, names=names, entropy=np.arange(8.0), features=np.eye(8))
    sys.exit()
words = sys.argv[sys.argv.index("train"):]
reference, folder, own = words[2], pathlib.Path(words[4]), words[5:]
settings = dict(word.removeprefix("--config.").split("=", 1) for word in own)
count = int(settings.get("data.labelled_target.count", 0))
if "data.labelled_target.names_file" in settings:
    assert len(pathlib.Path(settings["data.labelled_target.names_file"]).read_text().split()) == count
(folder / "train").mkdir(parents=True)
value = (40 + count + int(settings["seed"])) / 100
row = json.loads(os.environ["BUDGET_ROW"]) | {"config": reference, "overrides": own, "seed": int(settings["seed"])}
(folder / "result.json").write_text(json.dumps([row | {"miou": {row["protocol"]: value}}]))
(folder / "train" / "finished.json").write_text("{}")
"""


@pytest.fixture
def words(tmp_path, monkeypatch, tiny_folder):
    """The words of a budget on the tiny folder, with the stand-in in the place of Python."""
    stand_ins.replace_training(tmp_path, monkeypatch, PYTHON, "BUDGET_ROW")
    roots = [f"--config.data.{name}.root={tiny_folder}" for name in ("source", "target", "labelled_target")]
    return ["budget", "advent:folder", *roots, "--workdir", str(tmp_path / "budget")]


def test_a_budget_trains_draws_and_chooses_and_goes_on_where_it_was(words, tmp_path, capsys):
    asked = [*words, "--labels", "0,2,4", "--seeds", "0,1", "--lines", "both", "--choose", "random,entropy"]
    assert main([*asked, "--next", "3"]) == 0
    folder, out = tmp_path / "budget", capsys.readouterr().out
    assert "| without labels | 40.5 ± 0.7 | – | – |" in out
    assert "| labels and source, frames by entropy | – | 42.5 ± 0.7 | 44.5 ± 0.7 |" in out
    assert len(json.loads((folder / "rows.json").read_text())) == 2 + 2 * 2 * 2
    # The most uncertain frame comes last in the stand-in's measures.
    assert (folder / "frames" / "entropy-2-seed1.txt").read_text().split() == ["007", "006"]
    few, many = ((folder / "frames" / f"random-{k}-seed0.txt").read_text().split() for k in (2, 4))
    assert many[:2] == few
    # Of four that count as labelled, at random, the next ones are others.
    chosen = (folder / "next_frames.txt").read_text().split()
    assert len(chosen) == 3 and not set(chosen) & set(many)
    page = (folder / "budget.html").read_text()
    assert page.count('<path class="band"') == 3 and "labelled frames" in page and chosen[0] in page
    points = json.loads((folder / "budget.json").read_text())["points"]
    assert {(point["line"], point["labels"]) for point in points} == {(budget.ZERO, 0), ("both", 2), ("both", 4)}
    assert main([*asked, "--next", "3"]) == 0
    assert "begins" not in capsys.readouterr().err
    assert (folder / "next_frames.txt").read_text().split() == chosen


def test_only_frames_with_labels_are_trained_on_and_the_others_chosen(words, tiny_folder, tmp_path):
    own = shutil.copytree(tiny_folder, tmp_path / "own")
    for k in range(3, 8):
        (own / "train" / "labels" / f"{k:03}.png").unlink()
    words = [word.replace(str(tiny_folder), str(own)) if ".source." not in word else word for word in words]
    assert main([*words, "--labels", "2", "--lines", "labelled", "--next", "2", "--criterion", "entropy"]) == 0
    folder = tmp_path / "budget"
    assert set((folder / "frames" / "random-2-seed0.txt").read_text().split()) <= {"000", "001", "002"}
    assert (folder / "next_frames.txt").read_text().split() == ["007", "006"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--labels", "9"],
            "--labels 9: expected at most 8, the frames of the target's split 'train' that have labels",
        ),
        (["--labels", "2", "--choose", "best"], "expected some of both,entropy,diversity,random, got 'best'"),
        (["--labels", "2", "--config.train.stps=3"], "config.train.stps: unknown field; did you mean 'steps'"),
        (["--labels", "8", "--choose", "random"], "--labels: all frames are labelled then"),
    ],
)
def test_mistakes_are_one_line(words, change, message, capsys):
    assert main([*words, *change, "--lines", "labelled", "--criterion", "random"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_config_that_reads_labels_is_no_beginning(words, capsys):
    assert main(["budget", "ass:folder", *words[2:], "--labels", "2"]) == 2
    assert "expected a config that reads no labels of the target" in capsys.readouterr().err


def test_names_that_no_frame_has_are_one_line(tiny_folder, tmp_path):
    (tmp_path / "next.txt").write_text("001\n01x\n")
    section = Domain(dataset="folder", root=str(tiny_folder), label_space="own", names_file=str(tmp_path / "next.txt"))
    with pytest.raises(
        UserError, match=r"labelled_target: names_file: .*next.txt, line 2: no frame '01x' in the split"
    ):
        domains.open_domain(section, "config.data.labelled_target")


def test_the_criteria_choose_by_name():
    names = ["a", "b", "c", "d"]
    measures = Measures(names, np.array([1.0, 4.0, 3.0, 2.0]), np.array([[0.0], [1.0], [1.1], [9.0]]))
    assert budget.choose("entropy", ["d", "a", "c"], ["b"], 2, 0, measures) == ["c", "d"]
    assert budget.choose("diversity", ["a", "c", "d"], ["b"], 2, 0, measures) == ["d", "a"]
    assert budget.choose("both", ["a", "c", "d"], ["b"], 1, 0, measures) == ["d"]
    assert sorted(budget.choose("random", names, [], 4, 3, None)) == names
    assert budget.choose("random", names, [], 2, 3, None) == budget.choose("random", names, [], 4, 3, None)[:2]


def test_the_table_has_a_dash_where_nothing_was_run():
    found = [{"title": "a", "labels": 0, "values": {0: 0.5}}, {"title": "b", "labels": 5, "values": {0: 0.2, 1: 0.4}}]
    assert budget_page.markdown(found, "dice").splitlines()[2:] == ["| a | 50.0 | – |", "| b | – | 30.0 ± 14.1 |"]


class Network(nn.Module):
    """Scores and features are the colours."""

    @nn.compact
    def __call__(self, images, train):
        del train
        return {"logits": images, "features": self.param("scale", nn.initializers.ones, ()) * images}


class Measured(Counting):
    """Has such a network, as frames are measured by."""

    segmenter, network = Segmenter(input_norm="tanh"), Network()


def test_a_network_measures_every_frame(tiny_folder, tiny_experiment, tmp_path, monkeypatch):
    method = Measured()
    state = method.init(jax.random.key(0), {})
    state = state.replace(params={"segmenter": {"weights": 9 * jnp.eye(3), "scale": jnp.float32(2)}})
    monkeypatch.setattr(states, "restore", lambda workdir: (method, state, None))
    monkeypatch.setattr(Workdir, "experiment", lambda workdir: tiny_experiment)
    pool = Domain(dataset="folder", root=str(tiny_folder), label_space="own", flip=True, crop=(16, 16))
    frame_measures.save(frame_measures.measure(tmp_path, pool, "pool"), tmp_path / "found.npz")
    found = frame_measures.load(tmp_path / "found.npz")
    assert found.names == [f"{k:03}" for k in range(8)]
    image = np.asarray(Image.open(tiny_folder / "train" / "images" / "005.png"), np.float32)
    np.testing.assert_allclose(found.features[5], 2 * (image / 127.5 - 1).mean((0, 1)), atol=1e-5)
    expected = ops.entropy_score(jax.nn.softmax(9 * image / 255)[None])[0]
    np.testing.assert_allclose(found.entropy[5], expected, rtol=1e-5)
