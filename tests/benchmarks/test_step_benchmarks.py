"""The benchmarks of steps and starts, as far as they go without PyTorch: rows, tables, messages."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from uda_jax import config
from uda_jax.runs import stages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmarks():
    """The modules by name."""
    sys.path.insert(0, str(ROOT))
    try:
        names = ("step_cases", "step_rows", "step_tables")
        return {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    finally:
        sys.path.remove(str(ROOT))


def spread(*values):
    return dict(zip(("middle", "low", "high"), values if len(values) == 3 else 3 * values, strict=True))


STEP = {
    "label": "advent 1+1 x 128x256",
    "jax_ms": spread(20.04, 19.0, 22.0),
    "torch_ms": spread(10.0, 9.0, 11.0),
    "ratio": spread(2.0, 1.5, 2.5),
    "jax_images_per_second": 99.8,
    "torch_images_per_second": 200.0,
    "jax_peak_mib": 300.4,
    "torch_peak_mib": 250.6,
    "foreign_cores": 0.125,
}
STEP_CELLS = "20.0 [19.0, 22.0] | 10.0 [9.0, 11.0] | 2.00 [1.50, 2.50] | 99.80 | 200.00 | 300 | 251 | 0.12"
COLD = {
    "import": spread(1.0),
    "initialise": spread(2.0),
    "compile": spread(30.0, 29.0, 31.0),
    "first_step": spread(0.5),
}
START = {
    "label": "advent 1+1 x 128x256",
    "seconds": {
        "cold": COLD | {"total": spread(34.0)},
        "warm": COLD | {"compile": spread(3.0), "total": spread(7.0)},
        "torch": {"import": spread(1.5), "initialise": spread(0.5), "first_step": spread(0.2), "total": spread(2.5)},
    },
}


def test_every_method_has_rows_whose_setting_has_the_domains(benchmarks):
    cases = benchmarks["step_cases"].cases(list(benchmarks["step_cases"].SETTINGS), [(128, 256), (256, 512)])
    assert len({case.label for case in cases}) == len(cases) == 2 * 11 + 2
    for case in cases:
        recipe = stages.recipe(config.experiment(config.load(case.reference, case.words)), 19)
        stage = [each for each in recipe if each.kind.TRAINS and case.stage in (None, each.name)][-1]
        assert case.sizes.keys() == stage.domains.keys()
        assert stage.method.accumulation == 1
        if case.own:
            assert {count for count, _, _ in case.sizes.values()} == {stage.train.batch_size}
        assert case.frames == sum(count for count, _, _ in case.sizes.values())


def test_labels_tell_frames_and_size(benchmarks):
    cases = benchmarks["step_cases"].cases(["ass", "adda"], [(128, 256)])
    assert [case.label for case in cases] == ["ass 1+1+1 x 128x256", "adda 128+128 x 28x28"]


def test_rows_of_this_hardware_are_not_measured_again(benchmarks):
    rows, cases = benchmarks["step_rows"], benchmarks["step_cases"].cases(["advent", "dacs"], [(64, 128), (128, 256)])
    stored = [{"label": "advent 1+1 x 64x128", "hardware": "here"}, {"label": "dacs 1+1 x 64x128", "hardware": "there"}]
    assert [case.label for case in rows.missing(cases, stored, "here")] == [case.label for case in cases[1:]]


def test_a_row_replaces_that_of_its_label_and_rows_are_in_order(benchmarks):
    row = lambda method, size, value=0: {"label": f"{method} {size}", "method": method, "size": size, "value": value}  # noqa: E731
    stored = [row("dacs", "64x128"), row("advent", "128x256"), row("advent", "64x128")]
    found = benchmarks["step_rows"].merged(stored, row("dacs", "64x128", 1))
    assert found == [row("advent", "64x128"), row("advent", "128x256"), row("dacs", "64x128", 1)]


def test_table_of_steps(benchmarks):
    lines = benchmarks["step_tables"].table([STEP]).splitlines()
    assert lines[2:] == [f"| advent 1+1 x 128x256 | {STEP_CELLS} |"]
    assert len({line.count("|") for line in lines}) == 1


def test_table_of_starts(benchmarks):
    lines = benchmarks["step_tables"].startup_table([START]).splitlines()
    assert lines[2:] == [
        "| advent 1+1 x 128x256 | cold | 1.0 | 2.0 | 30.0 [29.0, 31.0] | 0.5 | 34.0 |",
        "| advent 1+1 x 128x256 | warm | 1.0 | 2.0 | 3.0 | 0.5 | 7.0 |",
        "| advent 1+1 x 128x256 | PyTorch | 1.5 | 0.5 |  | 0.2 | 2.5 |",
    ]
    assert len({line.count("|") for line in lines}) == 1


def test_joint_table_leaves_empty_what_was_not_measured(benchmarks, tmp_path):
    files = {"steps.json": [STEP, STEP | {"label": "dacs 1+1 x 128x256"}], "starts.json": [START]}
    for name, rows in files.items():
        (tmp_path / name).write_text(json.dumps(rows))
    command = [sys.executable, "-m", "benchmarks.step_tables", *(str(tmp_path / name) for name in files)]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[2:] == [
        f"| advent 1+1 x 128x256 | {STEP_CELLS} | 30.0 | 3.0 | 34.0 | 7.0 | 2.5 |",
        f"| dacs 1+1 x 128x256 | {STEP_CELLS} |  |  |  |  |  |",
    ]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("module", ["train_step", "startup"])
def test_without_pytorch_one_line_names_the_extra(module):
    # None in sys.modules makes the import fail wherever these tests run.
    code = f"import sys; sys.modules['torch'] = None; from benchmarks import {module}; sys.exit({module}.main())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    message = f"benchmarks.{module}: PyTorch is not installed; run: pip install 'uda_jax[bench]'\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, message, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "advent,adapt"], "unknown methods ['adapt']; known: source_only, adaptsegnet"),
        (["--sizes", "100x200"], "expected multiples of 32 such as 128x256, got '100x200'"),
        (["--repeats", "0"], "--repeats: expected at least 1, got 0"),
    ],
)
def test_wrong_words_are_refused(words, message):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_step", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert message in done.stderr
