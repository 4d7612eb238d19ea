"""Rankings in run folders: what is read, what the page shows, what is refused."""

import json

import numpy as np
import pytest

from uda_jax.data.labels import label_spaces
from uda_jax.errors import UserError
from uda_jax.report import collect, ranking_page, write
from uda_jax.report.elements import render
from uda_jax.report.pictures import save_frame

NAMES = ["aachen/a.png", "aachen/b.png", "bochum/c.png", "bochum/d.png", "ulm/e.png"]
SCORES = [0.01, 0.02, 0.02, 0.031234, 0.05]


def make_ranking(folder, normalise=False, pictures=True):
    frames = [
        {"name": name, "score": score, "rare_classes": k, "normaliser": 1.5 - k / 11}
        for k, (name, score) in enumerate(zip(NAMES, SCORES, strict=True))
    ]
    said = {"stage": "inter", "step": 70, "fraction": 0.67, "normalise": normalise, "frames": frames}
    folder.mkdir(parents=True)
    (folder / "ranking.json").write_text(json.dumps(said))
    label = np.zeros((8, 16), np.uint8)
    image = np.zeros((8, 16, 3), np.uint8)
    for group, names in (("easiest", NAMES[:2]), ("hardest", NAMES[:2:-1])) if pictures else ():
        for name in names:
            save_frame(folder / group, name, image, None, label, label / 2.0, label_spaces.PALETTE)
    return said


@pytest.fixture
def run_folder(tmp_path):
    make_ranking(tmp_path / "run" / "rank")
    (tmp_path / "run" / "config.json").write_text("{}")
    return tmp_path / "run"


def test_ranking_is_read_with_its_pictures(run_folder):
    (run,) = collect([run_folder])
    (found,) = run.rankings
    assert (found.folder, found.stage, found.step, found.fraction, found.normalise) == (
        "rank",
        "inter",
        70,
        0.67,
        False,
    )
    assert [frame["score"] for frame in found.frames] == SCORES
    assert found.easy == 3  # int(5 * 0.67)
    assert list(found.easiest) == ["aachen__a.png", "aachen__b.png"] and list(found.hardest) == [
        "bochum__d.png",
        "ulm__e.png",
    ]
    assert set(found.easiest["aachen__a.png"]) == {"image", "prediction", "entropy"}


def test_the_split_truncates_as_the_released_code():
    frames = tuple({"name": str(k), "score": float(k)} for k in range(100))
    assert ranking_page.Ranking("rank", "inter", 1, 0.29, False, frames, {}, {}).easy == 28
    assert ranking_page.Ranking("rank", "inter", 1, 0.67, False, frames[:1] * 2975, {}, {}).easy == 1993


def test_page_shows_counts_scores_and_pictures(run_folder, tmp_path, read_page):
    page = read_page(write([run_folder], tmp_path / "report.html").read_text())
    text = "".join(page.text)
    assert (
        "rank: 3 easy frames with scores from 0.01 to 0.02 and 2 hard frames with scores from 0.03123 to 0.05; "
        "fraction 0.67 of 5, ranked by inter at step 70"
    ) in text
    captions = [word for word in page.text if ", place " in word]
    assert captions == [
        "easiest: aachen__a.png, place 1, score 0.01",
        "easiest: aachen__b.png, place 2, score 0.02",
        "hardest: ulm__e.png, place 5, score 0.05",
        "hardest: bochum__d.png, place 4, score 0.03123",
    ]
    assert len(page.images) == 4 * 3 and all(image["src"].startswith("data:image/png") for image in page.images)
    assert "Evaluation frames" not in text


def test_normalised_rankings_say_so_and_pictures_may_be_absent(tmp_path, read_page):
    make_ranking(tmp_path / "a" / "rank", normalise=True)
    make_ranking(tmp_path / "b" / "rank", pictures=False)
    found = [(name, ranking_page.read_ranking(tmp_path / name / "rank" / "ranking.json")) for name in "ab"]
    page = read_page(render("rankings.html", rankings=ranking_page.section(found), rankings_left_out=0))
    text = "".join(page.text)
    assert text.count("scores normalised by rare classes") == 1 and len(page.images) == 12
    assert "hardest: ulm__e.png, place 5, score 0.05, rare classes 4" in page.text
    assert text.count("3 easy frames") == 2
    assert ranking_page.section([]) == []


def test_a_share_of_one_leaves_no_hard_frames(tmp_path):
    said = make_ranking(tmp_path / "rank", pictures=False)
    (tmp_path / "rank" / "ranking.json").write_text(json.dumps(said | {"fraction": 1}))
    found = ranking_page.read_ranking(tmp_path / "rank" / "ranking.json")
    (shown,) = ranking_page.section([("intrada", found)])
    assert "5 easy frames with scores from 0.01 to 0.05 and 0 hard frames; fraction 1 of 5" in shown["summary"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: said.pop("step"), "key 'step' is missing"),
        (lambda said: said.update(step=True), "key 'step': expected int, got True"),
        (lambda said: said.update(normalise=1), "key 'normalise': expected bool, got 1"),
        (lambda said: said.update(fraction=1.5), "key 'fraction': expected a number in [0, 1], got 1.5"),
        (lambda said: said.update(frames=[]), "key 'frames': expected at least one"),
        (lambda said: said["frames"].append("ulm/f.png"), "frame 6: expected an object"),
        (lambda said: said["frames"][1].pop("name"), "frame 2: key 'name' is missing"),
        (lambda said: said["frames"][2].update(score=0.5), "frame 4 (bochum/d.png): expected a score >= 0.5"),
        (lambda said: said["frames"][4].update(score=float("nan")), "frame 5 (ulm/e.png): expected a score >= 0.03"),
    ],
)
def test_malformed_rankings_are_named(tmp_path, change, words):
    said = make_ranking(tmp_path / "run" / "rank", pictures=False)
    change(said)
    path = tmp_path / "run" / "rank" / "ranking.json"
    path.write_text(json.dumps(said))
    (tmp_path / "run" / "config.json").write_text("{}")
    (run,) = collect([tmp_path / "run"])
    assert not run.rankings and len(run.notes) == 1
    assert words in run.notes[0] and str(path) in run.notes[0]


def test_a_torn_ranking_is_named(tmp_path):
    (tmp_path / "ranking.json").write_text('{"stage": ')
    with pytest.raises(UserError, match=r"ranking\.json: cannot be read"):
        ranking_page.read_ranking(tmp_path / "ranking.json")
