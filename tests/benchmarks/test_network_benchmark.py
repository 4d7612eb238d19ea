"""The benchmark of the networks, as far as it goes without PyTorch: arithmetic, tables, messages."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def networks():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import networks
    finally:
        sys.path.remove(str(ROOT))
    return networks


@pytest.fixture(scope="module")
def side_by_side(networks):
    from benchmarks import side_by_side

    return side_by_side


def phase(jax, torch):
    """Figures of a phase as `measure` writes them."""
    return {
        "jax_ms": dict(zip(("middle", "low", "high"), jax, strict=True)),
        "torch_ms": dict(zip(("middle", "low", "high"), torch, strict=True)),
        "ratio": {"middle": jax[0] / torch[0], "low": 0.25, "high": 4.0},
        "jax_peak_mib": 300.4,
        "torch_peak_mib": 250.6,
        "jax_temporary_mib": 12.0,
        "foreign_cores": 0.125,
    }


def test_spread_is_median_and_range(side_by_side):
    assert side_by_side.spread([5.0, 1.0, 2.0]) == (2.0, 1.0, 5.0)


def test_ratio_is_of_medians_and_its_range_of_turns(side_by_side):
    # Medians 30 and 20; the turns' ratios are 10/20, 30/10 and 60/40.
    assert side_by_side.ratio([10.0, 30.0, 60.0], [20.0, 10.0, 40.0]) == (1.5, 0.5, 3.0)


def test_ratio_needs_as_many_repeats_of_both(side_by_side):
    with pytest.raises(ValueError):
        side_by_side.ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("memory", "duration", "expected"),
    [
        (0.5, 1.3, "saves memory"),
        (1.2, 0.9, "saves time"),
        (0.5, 0.5, "saves memory and time"),
        (0.96, 1.0, "does not pay on this CPU"),
    ],
)
def test_verdict(networks, memory, duration, expected):
    assert networks.network_tables.verdict(memory, duration) == expected


def test_compare_is_relative_to_the_largest_value(networks):
    expected = {"logits": np.array([[[[100.0, -200.0]]]]), "depth": np.array([[[[1.0]]]])}
    found = {"logits": expected["logits"] + 0.1, "depth": expected["depth"]}
    assert networks.compare(found, expected, values=True) == pytest.approx(0.1 / 200)
    with pytest.raises(ValueError, match="output 'depth' differs by 1.0e-01"):
        networks.compare({**found, "depth": np.array([[[[1.1]]]])}, expected, values=True)
    with pytest.raises(ValueError, match="differs by nan"):
        networks.compare({**found, "depth": np.array([[[[np.nan]]]])}, expected, values=True)


def test_compare_without_weights_reads_shapes_only(networks):
    zeros, ones = {"logits": np.zeros((1, 2, 3, 4))}, {"logits": np.ones((1, 2, 3, 4))}
    assert networks.compare(zeros, ones, values=False) is None
    with pytest.raises(ValueError, match="shape"):
        networks.compare(zeros, {"logits": np.ones((1, 2, 4, 3))}, values=False)


def test_label_tells_input_and_options(networks):
    case = networks.Case("deeplab_v2_resnet14", 96, 192, batch=4, shape={"width": 12})
    assert networks.label(case) == "deeplab_v2_resnet14 4x96x192x3 (width=12)"


def test_cases_name_networks_and_dialects_of_the_library(networks):
    from uda_jax import networks as library
    from uda_jax import weights

    for case in networks.CASES:
        library.build(case.network, case.classes, **case.shape, **case.options)
        assert case.dialect is None or weights.checkpoint_info(case.dialect)
    labels = [networks.label(case) for case in networks.CASES]
    assert len(set(labels)) == len(labels)


def test_table(networks):
    row = {
        "label": "dtn 64x32x32x3",
        "parameters": 3_130_000,
        "forward_gflop": 3.371,
        "forward": phase((20.04, 19.0, 22.0), (10.0, 9.0, 11.0)),
        "forward+backward": phase((400.4, 390.0, 410.0), (200.0, 190.0, 210.0)),
    }
    lines = networks.network_tables.table([row]).splitlines()
    assert lines[2:] == [
        "| dtn 64x32x32x3 | 3.13 | 3.37 | forward | 20.0 [19.0, 22.0] | 10.0 [9.0, 11.0] | 2.00 [0.25, 4.00] "
        "| 300 | 251 | 12 | 0.12 |",
        "|  | | | forward+backward | 400 [390, 410] | 200 [190, 210] | 2.00 [0.25, 4.00] | 300 | 251 | 12 | 0.12 |",
    ]
    assert len({line.count("|") for line in lines}) == 1


def test_switch_table(networks):
    first = {
        "label": "a, float32",
        "temporary_mib": 1000.0,
        "memory_ratio": 1.0,
        "jax_ms": {"middle": 2000.0, "low": 1900.0, "high": 2100.0},
        "time_ratio": 1.0,
        "peak_mib": 1500.0,
        "foreign_cores": 0.0,
    }
    second = {**first, "label": "a, remat", "temporary_mib": 400.0, "memory_ratio": 0.4, "time_ratio": 1.3}
    lines = networks.network_tables.switch_table([first, second]).splitlines()
    assert lines[2] == "| a, float32 | 1000 | 1.00 | 2000 [1900, 2100] | 1.00 | 1500 | 0.00 | the reference |"
    assert lines[3] == "| a, remat | 400 | 0.40 | 2000 [1900, 2100] | 1.30 | 1500 | 0.00 | saves memory |"
    assert len({line.count("|") for line in lines}) == 1


def test_without_pytorch_one_line_names_the_extra():
    # None in sys.modules makes the import fail wherever these tests run.
    code = "import sys; sys.modules['torch'] = None; from benchmarks import networks; sys.exit(networks.main())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "benchmarks.networks: PyTorch is not installed; run: pip install 'uda_jax[bench]'"
    ]
    assert done.stdout == ""


def test_an_unknown_network_is_refused_with_the_known_ones():
    command = [sys.executable, "-m", "benchmarks.networks", "--networks", "resnet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown networks ['resnet']" in done.stderr and "deeplab_v2_resnet101" in done.stderr
