"""What weights need beside names and shapes: how images are normalised, what classifiers sum, where strides are.

Neither a state dict nor its names say it. A dialect does, as its authors' code reads the files; a file that this
library writes says it in its metadata, and a converted folder in its manifest.
"""

from collections.abc import Mapping
from typing import Any

from uda_jax.errors import UserError
from uda_jax.weights.dialects import CheckpointInfo

# Fact -> its values; also the name of the field of a network's section that has to agree.
VALUES: dict[str, tuple[Any, ...]] = {
    "input_norm": ("caffe_bgr", "imagenet_rgb", "lite_rgb", "tanh"),
    "aspp_branches": tuple(range(1, 5)),
    "encoder_style": ("caffe", "torchvision", "v1c"),
}


def of_dialect(info: CheckpointInfo) -> dict[str, Any]:
    """Returns the facts of a family's own files."""
    return of_settings(info._asdict())


def of_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those entries of a section, or of a manifest, that are facts about its weights."""
    return {fact: settings[fact] for fact in VALUES if settings.get(fact) is not None}


def to_metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns the facts as entries of a safetensors header, which holds texts alone."""
    return {fact: str(value) for fact, value in facts.items()}


def from_metadata(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Returns the facts among a header's entries; raises a UserError, which starts with `where`, for unknown values."""
    facts = {}
    for fact, values in VALUES.items():
        if fact in metadata:
            known = {str(value): value for value in values}
            if metadata[fact] not in known:
                raise UserError(
                    f"{where}: metadata '{fact}': expected one of {', '.join(known)}, got '{metadata[fact]}'; write "
                    "the file again"
                )
            facts[fact] = known[metadata[fact]]
    return facts


def difference(
    facts: Mapping[str, Any], settings: Mapping[str, Any], *, heads: bool = True
) -> tuple[str, Any, Any] | None:
    """Returns the first fact in which weights and a network differ: its name, the weights' value and the network's.

    Args:
      facts: of the weights.
      settings: fields of a network's section; what it lacks cannot differ.
      heads: whether the classifiers are wanted.
    """
    for fact in VALUES:
        ours, theirs = facts.get(fact), settings.get(fact)
        if (heads or fact != "aspp_branches") and None not in (ours, theirs) and ours != theirs:
            return fact, ours, theirs
    return None
