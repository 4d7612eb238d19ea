"""The schema of result rows, once: what every key of a row says."""

from typing import NamedTuple


class Key(NamedTuple):
    """One key of a result row.

    Attributes:
      types: what its value may be.
      text: what it says.
      required: whether a row without it is refused; rows of before may lack the others.
    """

    types: tuple[type, ...]
    text: str
    required: bool = True


KEYS: dict[str, Key] = {
    "label": Key((str,), "Name of the row in tables, such as source_only or advent."),
    "benchmark": Key((str,), "Name of the benchmark, such as streets."),
    "method": Key((str,), "Name of the last stage's method."),
    "config": Key((str,), "Reference of the config, such as advent:streets."),
    "overrides": Key((dict, list), "Words of the command line that changed the config."),
    "seed": Key((int,), "Seed of initialisation, data order and device randomness."),
    "steps": Key((int,), "Training steps of all stages."),
    "batch": Key((int,), "Global batch size of each domain."),
    "head_classes": Key((int,), "Classes of the network's head."),
    "commit": Key((str,), "Commit of the code, followed by + if files differ from it, or its version."),
    "command": Key((str,), "The command line that repeats the run."),
    "hardware": Key((str,), "Devices, and the version of jax."),
    "seconds": Key((int, float), "Seconds of all stages over all restarts."),
    "protocol": Key((str,), "The protocol whose figure is the headline."),
    "miou": Key((dict,), "Protocol -> fraction, of the last step, or of selected_step, on the whole evaluation split."),
    "iou": Key((dict,), "Class -> fraction, or None for a class that is neither labelled nor predicted."),
    "split": Key((str,), "Data set and split of the evaluation, such as camvid/dusk.", required=False),
    "domain": Key(
        (str,), "Name of the split, where a run is scored on several; each has a row, and joint is all.", required=False
    ),
    "selection": Key(
        (str,),
        "How the scored step was chosen, best_on_target_val: by target labels, best_without_labels: by a criterion "
        "that needs none; without it the last.",
        required=False,
    ),
    "selected_on": Key((str,), "Data sets and splits whose labels chose the step.", required=False),
    "selected_by": Key((str,), "The criterion without labels that chose the step.", required=False),
    "selected_step": Key((int,), "The step of the last stage that was chosen.", required=False),
    "headline": Key((str,), "Metric that heads the row in place of the protocol's mean IoU.", required=False),
    "metrics": Key(
        (dict,), "Metric -> value on the whole evaluation split, or None where it has none.", required=False
    ),
    "dice": Key((dict,), "Class -> Dice score, or None as in iou.", required=False),
    "best_miou": Key((int, float, type(None)), "The best mean IoU of the protocol on the dev split.", required=False),
    "best": Key((int, float, type(None)), "The best value of another headline on the dev split.", required=False),
    "pixel_accuracy": Key((int, float, type(None)), "Share of the labelled pixels that are right.", required=False),
    "note": Key((str,), "Why the row differs from the others of its file.", required=False),
}
