"""The config sections of scoring; apart from the code that they steer, so that a config needs no JAX."""

import dataclasses
from collections.abc import Mapping

from uda_jax.data.pipeline.domains import Domain
from uda_jax.errors import UserError
from uda_jax.inference.criteria import CRITERIA
from uda_jax.schema import config_field
from uda_jax.training.metrics import metric


@dataclasses.dataclass(frozen=True)
class Inference:
    """How the scores of an image are made from the network's; all that the fields ask for is averaged."""

    window: tuple[int, int] | None = config_field(
        None, "Height and width in pixels of a window that slides over the image; None = the whole image.", low=1
    )
    stride: tuple[int, int] | None = config_field(
        None, "Pixels from one window to the next, down and across; None = the window's size, without overlap.", low=1
    )
    flip: bool = config_field(False, "Average with the scores of the mirrored image.")
    scales: tuple[float, ...] = config_field((1.0,), "Factors by which the image is resized.", low=0.01)
    average: str = config_field(
        "logits", "What is averaged, of windows, scales and several runs alike.", choices=("logits", "probabilities")
    )

    def check(self, path: str) -> None:
        """Raises a UserError for fields that contradict each other."""
        if not self.scales:
            raise UserError(f"{path}.scales: expected at least one factor, got none; set 1.0 for the image as it is")
        if self.stride is not None and (
            self.window is None or any(s > w for s, w in zip(self.stride, self.window, strict=True))
        ):
            raise UserError(
                f"{path}.stride: expected at most the window's size {self.window}, else pixels would be left out, got "
                f"{self.stride}; set '{path}.window'"
            )


# The name of the row of all final splits together.
JOINT = "joint"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Where and how runs are scored."""

    final: Domain | dict[str, Domain] = config_field(
        Domain(), "The evaluation split, used once, after the last step; or several by names of your choice."
    )
    dev: Domain | dict[str, Domain] | None = config_field(
        None, "The split for tuning and for choosing the best checkpoint, if there is one; of several, their mean."
    )
    joint: str = config_field(
        "none",
        "A row of several final splits together, besides their own: the mean of their figures, or the figures of one "
        "confusion matrix over all their pixels.",
        choices=("none", "mean", "pixels"),
    )
    selection: str = config_field(
        "last",
        "Checkpoint that the result row is of, and that later stages start from unless they name one: the last, or, as "
        "the released codes of ADVENT, IntraDA and DADA report, the best on labels of the target's validation set: "
        "those of dev, or without dev those of final itself; or the best by best_by, for which no label is read.",
        choices=("last", "best_on_target_val", "best_without_labels"),
    )
    criteria: tuple[str, ...] = config_field(
        (),
        "Criteria without labels that are measured on target frames whenever a state is scored, and logged as "
        "unlabelled/<name>.",
        choices=tuple(CRITERIA),
    )
    criteria_frames: int = config_field(64, "Target frames that they are measured on, chosen by a fixed seed.", low=1)
    best_by: str | None = config_field(
        None,
        "Criterion without labels by which the best checkpoint is kept; None = the headline on dev.",
        choices=(None, *CRITERIA),
    )
    batch_size: int = config_field(
        8, "Global batch size; with 1, frames of any size are scored, each at its own.", low=1
    )
    unlabelled: bool = config_field(
        False, "Whether final splits may be without labels; then the run ends with predictions instead of a score."
    )
    headline: str = config_field(
        "miou", "Metric that heads the row and chooses the best checkpoint: miou, pixel_accuracy, dice, abs_rel, ..."
    )
    protocol: str = config_field(
        "19", "The protocol whose mean IoU is the headline, and whose classes Dice averages, but for 'background'."
    )
    count_void_predictions: bool = config_field(
        True,
        "Whether a labelled pixel that is predicted as a class outside the protocol is an error; False leaves it out.",
    )
    count_void_labels: bool = config_field(
        False,
        "Whether a prediction at a pixel without a label is an error of the predicted class; False leaves it out.",
    )
    inference: Inference = config_field(Inference(), "How scores are made from the network's.")
    pictures: int = config_field(6, "Frames of each evaluation split whose predictions are kept for the report.", low=0)

    @property
    def chosen_step(self) -> str:
        """The checkpoint of a stage that counts, "last" or "best"."""
        return "last" if self.selection == "last" else "best"

    @property
    def chosen_on_final(self) -> bool:
        """Whether checkpoints are chosen on the final splits themselves."""
        return self.dev is None and self.selection == "best_on_target_val"

    @property
    def measured(self) -> tuple[str, ...]:
        """The criteria without labels that are measured while a run is trained."""
        return tuple(name for name in CRITERIA if name in self.criteria or name == self.best_by)

    def splits(self, which: str) -> dict[str, Domain]:
        """Returns the splits of "final" or of "dev", in the order of their names.

        A single one is named after the field; of "dev" there may be none, or, where checkpoints are to be chosen all
        the same, those of "final".
        """
        found = self.final if which == "dev" and self.chosen_on_final else getattr(self, which)
        if found is None:
            return {}
        # A config keeps its sections in no order.
        return dict(sorted(found.items())) if isinstance(found, Mapping) else {which: found}

    def path(self, which: str, name: str) -> str:
        """Returns the dotted name of the section of a split, as `splits` names it, for messages."""
        which = "final" if which == "dev" and self.chosen_on_final else which
        several = isinstance(getattr(self, which), Mapping)
        return f"config.evaluation.{which}.{name}" if several else f"config.evaluation.{which}"

    def check(self, path: str) -> None:
        """Raises a UserError for an unknown headline, a split's name that is not unique, or one split as several."""
        metric(self.headline, f"{path}.headline")
        if self.selection == "best_without_labels" and self.best_by is None:
            raise UserError(f"{path}.best_by: expected a criterion, by which '{path}.selection' chooses, got None")
        if self.selection == "best_on_target_val" and self.best_by is not None:
            raise UserError(
                f"{path}.best_by: expected None, since '{path}.selection' chooses by labels, got {self.best_by!r}; set "
                "selection=best_without_labels, or leave it out"
            )
        for which, other in (("final", self.dev), ("dev", self.final)):
            splits, others = getattr(self, which), set(other) if isinstance(other, Mapping) else set()
            if isinstance(splits, Mapping) and (taken := {"final", "dev", JOINT, *others} & set(splits)):
                raise UserError(
                    f"{path}.{which}: expected unique names of splits, other than final, dev and {JOINT}, got "
                    f"'{min(taken)}'"
                )
        if self.joint != "none" and not isinstance(self.final, Mapping):
            raise UserError(
                f"{path}.joint: expected 'none', since '{path}.final' is a single split, got {self.joint!r}"
            )
