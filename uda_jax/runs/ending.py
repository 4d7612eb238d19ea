"""What a run ends with: its result rows and its receipt, made once and found again by a rerun."""

from collections.abc import Mapping
from typing import Any

from uda_jax.runs import first_look, receipts, results, scoring
from uda_jax.runs.stages import Context, Stage
from uda_jax.runs.workdir import Workdir


def rows(
    last: Stage,
    workdir: Workdir,
    context: Context,
    stage_results: Mapping[str, Mapping[str, Any]],
    invocation: results.Invocation,
) -> list[dict[str, Any]]:
    """Returns the result rows, stored ones or else new ones, and sees to the run's receipt.

    Args:
      last: the last stage, which is scored.
      workdir, context: of the run.
      stage_results: what each stage's marker says, by the stage's name.
      invocation: how the run was asked for.
    """
    scored = not workdir.result.exists()
    if scored:
        found = scoring.score_final(last, workdir, context, list(stage_results.values()), invocation)
    else:
        found = first_look.stored_rows(workdir)
    # A process may have died between the two files; a run of before there were receipts gets none.
    complete = all(workdir.stage(name).receipt.exists() for name in stage_results)
    if context.first_process and (scored or (complete and not workdir.receipt.exists())):
        receipts.write_run(workdir, context, list(stage_results))
    return found
