"""The tables that `benchmarks.networks` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.network_sides import PHASES
from benchmarks.side_by_side import Spread


def verdict(memory: float, duration: float) -> str:
    """Returns what a switch is good for, from its ratios of memory and time to those without it."""
    # Less than a twentieth is within what a time varies by.
    gains = [word for word, value in (("memory", memory), ("time", duration)) if value < 0.95]
    return f"saves {' and '.join(gains)}" if gains else "does not pay on this CPU"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the comparison as a Markdown table, two lines per row: forward and forward+backward."""
    lines = [
        "| network, input | parameters, M | GFLOP | phase | JAX, ms | PyTorch, ms | JAX / PyTorch | JAX peak, MiB "
        "| PyTorch peak, MiB | XLA temporaries, MiB | foreign load, cores |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        facts = f"{row['label']} | {row['parameters'] / 1e6:.2f} | {row['forward_gflop']:.2f}"
        for phase in PHASES:
            found = row[phase]
            times = " | ".join(_range(found[f"{name}_ms"], _digits(found)) for name in ("jax", "torch"))
            memory = " | ".join(f"{found[name]:.0f}" for name in ("jax_peak_mib", "torch_peak_mib"))
            lines.append(
                f"| {facts} | {phase} | {times} | {_range(found['ratio'], 2)} | {memory} "
                f"| {found['jax_temporary_mib']:.0f} | {found['foreign_cores']:.2f} |"
            )
            facts = " | |"
    return "\n".join(lines)


def switch_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the switches as Markdown."""
    lines = [
        "| network, input, switch | XLA temporaries, MiB | ratio | JAX, ms | ratio | peak, MiB | foreign load, cores "
        "| verdict |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        note = verdict(row["memory_ratio"], row["time_ratio"]) if row is not rows[0] else "the reference"
        lines.append(
            f"| {row['label']} | {row['temporary_mib']:.0f} | {row['memory_ratio']:.2f} | {_range(row['jax_ms'], 0)} "
            f"| {row['time_ratio']:.2f} | {row['peak_mib']:.0f} | {row['foreign_cores']:.2f} | {note} |"
        )
    return "\n".join(lines)


def _digits(found: Mapping[str, Any]) -> int:
    return 0 if min(found["jax_ms"]["middle"], found["torch_ms"]["middle"]) >= 100 else 1


def _range(figures: Mapping[str, float], digits: int) -> str:
    middle, low, high = (f"{figures[name]:.{digits}f}" for name in Spread._fields)
    return f"{middle} [{low}, {high}]"
