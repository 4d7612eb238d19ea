"""What a run looks at before it begins: its data, and the rows of a run that is finished."""

import sys
from collections.abc import Sequence
from typing import Any

from uda_jax.data.pipeline import domains, examples
from uda_jax.errors import UserError, printable
from uda_jax.inference import label_check
from uda_jax.report.rows import KEYS
from uda_jax.runs import scoring
from uda_jax.runs.late_files import needs_workdir
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir, read_json


def check_data(last: Stage, unfinished: Sequence[Stage], context: Context) -> None:
    """Refuses frames that fit no batch and labels that teach or score nothing, and prints notes on others."""
    notes = scoring.check_references(last, context)
    seen, section = [], context.experiment.evaluation
    splits = {section.path("final", name): domain for name, domain in section.splits("final").items()}
    labelled = {path: domain for path, domain in splits.items() if "label" in domain.fields}
    notes += [note for path, domain in splits.items() for note in domains.passed_over(domain, path)]
    for stage in unfinished:
        ready = {name: domain for name, domain in stage.domains.items() if not needs_workdir(domain)}
        ready = {name: domain for name, domain in ready.items() if stage.kind.TRAINS and domain not in seen}
        seen += ready.values()
        for name, domain in ready.items():
            # Whatever is wrong with it would show once the workdir is written, and its cure is another config.
            examples.training_examples(domain, f"config.data.{name}", name)
            notes += domains.passed_over(domain, f"config.data.{name}")
        notes += label_check.check_domains(ready)
        labelled |= {
            f"config.data.{name}": domain for name, domain in ready.items() if label_check.teaches(name, domain)
        }
    notes += label_check.compare_palettes(labelled)
    print_lines(notes, context)


def print_lines(lines: Sequence[str], context: Context) -> None:
    """Prints lines to stderr in the first process."""
    for line in lines if context.first_process else ():
        print(printable(line), file=sys.stderr, flush=True)


def stored_rows(workdir: Workdir) -> list[dict[str, Any]]:
    """Returns the rows of a run that is finished; raises a UserError if their file is damaged."""
    remedy = "delete it and rerun the same command, which scores the last state again"
    rows = read_json(workdir.result, remedy)
    required = {name for name, key in KEYS.items() if key.required}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and required <= row.keys() for row in rows):
        raise UserError(f"{workdir.result}: expected result rows, found other things; {remedy}")
    return rows
