"""Choosing among candidates by what was measured of them without labels: ranks, guards, warnings; numbers alone."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from uda_jax.errors import UserError
from uda_jax.inference.criteria import CRITERIA, DEFAULT
from uda_jax.inference.label_free import Measured

# What is chosen by if no single criterion is asked for.
COMBINED = "default"

# A class of the source counts from this share of its labelled pixels on, and is gone from predictions below this part
# of that share.
COUNTED_SHARE, GONE = 0.005, 0.01
# A candidate is set aside whose source score is below this part of the best one, or that has lost this part more of the
# source's classes than the candidate that has lost fewest.
KEPT_SOURCE, LOST = 0.5, 0.5
# Predictions of a lower normalised entropy than this whose agreement under changes of the image (kappa) is below this.
SURE, STEADY = 0.1, 0.6
_AGREEMENTS = ("flip_agreement", "scale_agreement", "mask_agreement", "teacher_agreement")


class Candidate(NamedTuple):
    """One state that may be chosen.

    Attributes:
      run: what it is called.
      step: of its checkpoint.
      measured: what was measured of it.
    """

    run: str
    step: int
    measured: Measured


class Choice(NamedTuple):
    """What was chosen, and why.

    Attributes:
      index: of the chosen candidate.
      by: the criterion, or `COMBINED`.
      used: the criteria whose ranks were averaged.
      figures: what candidates were ordered by, lower first for `COMBINED`; None for those set aside.
      aside: why a candidate was set aside, by its index.
      reason: in a sentence.
      warnings: what speaks against the choice.
    """

    index: int
    by: str
    used: tuple[str, ...]
    figures: list[float | None]
    aside: dict[int, str]
    reason: str
    warnings: list[str]


def ranks(values: Sequence[float], *, higher_is_better: bool) -> list[float]:
    """Returns the rank of each value, 1 for the best; equal ones share the mean of theirs."""
    signed = [-value if higher_is_better else value for value in values]
    return [1 + sum(x < own for x in signed) + (sum(x == own for x in signed) - 1) / 2 for own in signed]


def combined(values: Sequence[Mapping[str, float | None]]) -> tuple[list[float], tuple[str, ...]]:
    """Returns each candidate's mean rank over those criteria of `DEFAULT` that all have, and which these are.

    Args:
      values: of each candidate, criterion -> value or None.
    """
    used = tuple(name for name in DEFAULT if all(each.get(name) is not None for each in values))
    if not used:
        raise UserError(f"the default choice: expected runs with one of {', '.join(DEFAULT)}, found none that all have")
    columns = []
    for name in used:
        own = [each[name] for each in values]
        columns.append(ranks(own, higher_is_better=CRITERIA[name].higher_is_better))
    return [statistics.fmean(found) for found in zip(*columns, strict=True)], used


def gone(measured: Measured) -> list[int]:
    """Returns the classes of the source that have all but vanished from the predictions on the target."""
    pairs = enumerate(zip(measured.shares, measured.prior or (), strict=False))
    return [k for k, (share, prior) in pairs if prior >= COUNTED_SHARE and share < GONE * prior]


def unsteady(measured: Measured) -> float | None:
    """Returns the mean agreement of predictions that are sure of themselves and yet change with the image, or None."""
    found = [measured.values[name] for name in _AGREEMENTS if measured.values.get(name) is not None]
    entropy = measured.values.get("entropy")
    if entropy is None or not found or entropy >= SURE or statistics.fmean(found) >= STEADY:
        return None
    return statistics.fmean(found)


def set_aside(measured: Sequence[Measured]) -> dict[int, str]:
    """Returns why candidates are set aside, by index; where all would be, none is."""
    scores = [each.values.get("source_score") for each in measured]
    best = max((score for score in scores if score is not None), default=0.0)
    lost = [len(gone(each)) for each in measured]
    found = {}
    for k, (each, score) in enumerate(zip(measured, scores, strict=True)):
        counted = sum(prior >= COUNTED_SHARE for prior in each.prior or ())
        if score is not None and score < KEPT_SOURCE * best:
            found[k] = f"its source score {score:.3f} is below half of the best one, {best:.3f}"
        elif lost[k] - min(lost) > LOST * counted:
            found[k] = f"{lost[k]} of the source's {counted} classes have vanished from its predictions"
    return found if len(found) < len(measured) else {}


def choose(candidates: Sequence[Candidate], classes: Sequence[str], by: str = COMBINED) -> Choice:
    """Chooses one of some candidates, the first of equal ones.

    Args:
      candidates: at least one, all measured on the same frames.
      classes: the names of their classes.
      by: `COMBINED`, or a criterion.

    Raises:
      UserError: a criterion that some candidate lacks.
    """
    measured = [candidate.measured for candidate in candidates]
    aside = set_aside(measured)
    kept = [k for k in range(len(candidates)) if k not in aside]
    figures: list[float | None] = [None] * len(candidates)
    if by == COMBINED:
        found, used = combined([measured[k].values for k in kept])
        order = found
    else:
        used, found = (by,), [measured[k].values.get(by) for k in kept]
        if None in found:
            lacking = candidates[kept[found.index(None)]].run
            raise UserError(f"--by {by}: it does not apply to {lacking}; leave that out, or choose by another")
        order = ranks(found, higher_is_better=CRITERIA[by].higher_is_better)
    for k, figure in zip(kept, found, strict=True):
        figures[k] = figure
    index = kept[min(range(len(kept)), key=order.__getitem__)]
    reason = _reason(len(kept), by, used, figures[index], len(aside))
    return Choice(index, by, used, figures, aside, reason, warnings(measured[index], classes))


def warnings(measured: Measured, classes: Sequence[str]) -> list[str]:
    """Returns what in a candidate's predictions looks as if it had collapsed."""
    found = []
    if lost := gone(measured):
        names = ", ".join(classes[k] for k in lost)
        found.append(f"it predicts next to no {names} on the target, which the source has; look at its pictures")
    if (steady := unsteady(measured)) is not None:
        found.append(
            f"it is sure of its predictions (entropy {measured.values['entropy']:.3f}), but they change with the view "
            f"(kappa {steady:.2f})"
        )
    largest = max(measured.shares)
    if not found and largest > 0.95 and not (measured.prior and max(measured.prior) > 0.9):
        found.append(f"{largest:.0%} of the pixels are predicted as {classes[measured.shares.index(largest)]}")
    return found


def _reason(count: int, by: str, used: Sequence[str], figure: float, aside: int) -> str:
    others = f", {aside} set aside" if aside else ""
    if count == 1:
        return f"the only candidate{' left' if aside else ''}{others}"
    if by == COMBINED:
        return f"the lowest mean rank, {figure:.2f} of {count} candidates over {', '.join(used)}{others}"
    best = "highest" if CRITERIA[by].higher_is_better else "lowest"
    return f"the {best} {by}, {_figure(figure)}, of {count} candidates{others}"


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def table(candidates: Sequence[Candidate], choice: Choice) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns headings and rows for `overview.aligned`: candidates by rank, those set aside last; * the choice."""
    shown = [name for name in CRITERIA if any(each.measured.values.get(name) is not None for each in candidates)]
    headings = ("", "run", "step", *(CRITERIA[name].heading for name in shown), "rank" if choice.by == COMBINED else "")
    combined_ = choice.by == COMBINED
    down = not combined_ and CRITERIA[choice.by].higher_is_better
    figure = lambda k: (choice.figures[k] is None, (-1 if down else 1) * (choice.figures[k] or 0.0), k)  # noqa: E731
    rows = []
    for k in sorted(range(len(candidates)), key=figure):
        run, step, measured = candidates[k]
        last = "aside" if k in choice.aside else f"{choice.figures[k]:.2f}" if combined_ else ""
        cells = (_figure(measured.values.get(name)) for name in shown)
        rows.append(("*" if k == choice.index else "", run, str(step), *cells, last))
    return headings, rows
