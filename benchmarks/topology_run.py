"""One process of `benchmarks.topology`: trains a recipe and counts what its last state predicts.

    python -m benchmarks.topology_run --reference advent:smoke --sharding fsdp --workdir runs/x [--also other/workdir]

The number of devices is the environment's, and that of processes the options'.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax

from uda_jax import config
from uda_jax.config import Experiment, Train
from uda_jax.data.io import atomic
from uda_jax.runs import results, states, train
from uda_jax.training import sharding

BATCH = 8
# Networks of a few channels: with the field's default nothing of them would be split.
SPLIT_FROM = 256

# The recipes' rates make losses rise first, and then what rounding left in one step grows a hundredfold in the next.
SLOWER = 0.01

# In a workdir: the confusion counts of the last state, and where its bytes lie.
COUNTS = "counts.json"


def experiment(reference: str, steps: int, kind: str) -> Experiment:
    """Returns a packaged recipe whose trainings all last some steps, log each, and share a batch among 8 devices."""
    found = config.experiment(config.load(reference))
    changes: dict[str, Any] = {"steps": steps, "batch_size": BATCH, "accumulation": 1, "log_every": 1}
    changes |= {"evaluate_every": steps, "checkpoint_every": steps, "sharding": kind, "split_from": SPLIT_FROM}

    def changed(section: Train | None) -> Train | None:
        return section and dataclasses.replace(section, **changes)

    def shared(kind: dict[str, Any]) -> dict[str, Any]:
        return kind | {"batch_size": BATCH} if "batch_size" in kind else kind

    stages = {
        name: dataclasses.replace(stage, kind=shared(stage.kind), train=changed(stage.train))
        for name, stage in (found.stages or {}).items()
    }
    evaluation = dataclasses.replace(found.evaluation, batch_size=BATCH)
    found = dataclasses.replace(found, train=changed(found.train), evaluation=evaluation, stages=stages or None)
    return config.experiment(slower(config.to_plain(found)))


def slower(value: Any) -> Any:
    """Returns the plain values of an experiment with lower learning rates."""
    if not isinstance(value, dict):
        return value
    return {k: v * SLOWER if k == "learning_rate" and v else slower(v) for k, v in value.items()}


def counts(workdir: Path) -> dict[str, Any]:
    """Returns the sums that a run's last state is scored by, and how many bytes of it lie on a device.

    Every process has to call it. A score of classes is the confusion matrix, one of depth its sums.
    """
    from uda_jax.inference.evaluate import Evaluator, evaluation_step

    section = config.from_json(workdir / "config.json").evaluation
    method, state, space = states.restore(workdir)
    mesh = sharding.data_mesh()
    step, found = evaluation_step(method, section, mesh), {}
    for name, domain in section.splits("final").items():
        path = section.path("final", name)
        totals, _ = Evaluator(domain, section, step, mesh, path=path, space=space).totals(state)
        found[name] = {what: sums.tolist() for what, sums in totals.items()}
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    return {"totals": found, "bytes": whole, "bytes_per_device": sharding.bytes_per_device(state)}


def main() -> int:
    """Trains, counts, and counts what another run's last state predicts here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True)
    parser.add_argument("--sharding", choices=sharding.SHARDINGS, nargs="+", default=[sharding.REPLICATED])
    parser.add_argument("--workdir", type=Path, required=True, help="its name is followed by the sharding's")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--also", type=Path, help="a finished run, whose last state is restored and counted, too")
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    options = parser.parse_args()
    if options.coordinator:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    found = {}
    for kind in options.sharding:
        workdir = Path(f"{options.workdir}-{kind}")
        train.run(experiment(options.reference, options.steps, kind), workdir, results.Invocation(options.reference))
        found[workdir / COUNTS] = counts(workdir)
    if options.also:
        found[options.workdir.with_name(f"{options.workdir.name}-restored.json")] = counts(options.also)
    for file, content in found.items() if jax.process_index() == 0 else ():
        atomic.write(file, json.dumps(content) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
