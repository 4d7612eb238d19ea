"""From what a checkpoint file holds to a plain state dict, and from its names to its dialect."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from uda_jax.errors import UserError
from uda_jax.weights.dialects import DIALECTS

# Keys under which training code stores the state dict beside iteration, optimiser and config.
STUDENT_KEYS = ("model", "weights", "model_state_dict", "state_dict")
TEACHER_KEY = "ema_model"
# First components of names that wrappers put before every name of a state dict.
WRAPPERS = ("module", "Scale")
# First components that a container of three networks puts before the names of each: student, averaged teacher, and
# the frozen ImageNet copy of a feature distance.
NETWORKS = ("model", "ema_model", "imnet_model")
DOMAINS = ("source", "target")


def unwrap(container: Mapping[str, Any], *, which: str = "student", where: str = "checkpoint") -> dict[str, np.ndarray]:
    """Returns the state dict in a container, without the prefixes of wrappers.

    Containers are the dicts that DACS and CorDA (`model`, `ema_model`), PLCA (`weights`, `model_state_dict`) and mmcv
    (`state_dict`) write, nested or not, or a bare state dict. Prefixes are `module.` (any number), `Scale.` and, where
    one dict holds several networks, `model.`, `ema_model.` and `imnet_model.`, or `network.` and `network_ema.`; a
    prefix is taken off only where all names have one, but for these two. `backbone.` is part of PLCA's names and stays.

    Args:
      container: what the file holds.
      which: "student", the network that was trained, or "teacher", its average.
      where: the file, for messages.

    Raises:
      UserError: no state dict, more than one, or no teacher where one is asked for.
    """
    if which not in ("student", "teacher"):
        raise UserError(f"{where}: expected which as 'student' or 'teacher', got '{which}'")
    state_dict, found = _open(container, which, where)
    stray = [(k, v) for k, v in state_dict.items() if not isinstance(k, str) or not hasattr(v, "shape")]
    if stray or not state_dict:
        got = f"{type(stray[0][1]).__name__} under '{stray[0][0]}'" if stray else "nothing"
        keys = ", ".join((*STUDENT_KEYS, TEACHER_KEY))
        raise UserError(f"{where}: expected tensors by name, or a dict with one of the keys {keys}, got {got}")
    state_dict, found_by_prefix = _strip(state_dict, which, where)
    if which == "teacher" and not found and not found_by_prefix:
        raise UserError(f"{where}: holds no averaged teacher ('ema_model'); take the student")
    return state_dict


def detect(
    state_dict: Mapping[str, np.ndarray],
    branches: int | None = None,
    where: str = "weights",
    *,
    heads: bool = True,
    asked: str = "--branches",
) -> str:
    """Returns the dialect of a state dict, from its names.

    A state dict with one head `layer5` on the last stage is "dacs", whether DACS, AdaptSegNet's oracle or the init
    file of either: names, branches, encoder and input are the same.

    Args:
      state_dict: unwrapped, without prefixes.
      branches: dilated convolutions that the classifiers sum, 2 or 4; asked for only where the names cannot tell.
      where: the file, for messages.
      heads: whether the classifiers are wanted; of a file whose encoder alone is, `branches` contradict nothing.
      asked: the option or the field that gave `branches`, for messages.

    Raises:
      UserError: names of no known family, names that fit two (`branches` decides), or `branches` that contradict them.
    """
    if branches not in (None, 2, 4):
        raise UserError(f"{where}: expected 2 or 4 branches, got {branches}")
    if "layer6.conv2d_list.0.weight" in state_dict and "enc4_1.weight" not in state_dict:
        if branches is None:
            raise UserError(
                f"{where}: keys fit AdaptSegNet (2 branches) and ADVENT, IntraDA (4); say which with {asked} 2 or "
                f"{asked} 4"
            )
        return "adaptsegnet" if branches == 2 else "advent"
    dialect = next((dialect for sign, dialect in _SIGNS if sign in state_dict), None)
    if dialect == "torchvision_resnet":
        dialect = _torchvision_resnet(state_dict, where)
    if dialect is None:
        if "layer1.0.conv2.weight" in state_dict and "layer1.0.conv3.weight" not in state_dict:
            # Basic blocks are torchvision's alone, with or without the classifier.
            return _torchvision_resnet(state_dict, where)
        if "layer1.0.conv3.weight" in state_dict:
            raise UserError(f"{where}: a ResNet without head may be caffe_resnet101 or torchvision's; name the dialect")
        first = ", ".join(f"'{name}'" for name in list(state_dict)[:3])
        raise UserError(f"{where}: keys fit no known family (first: {first}); known: {', '.join(DIALECTS)}")
    published = DIALECTS[dialect].info.aspp_branches
    if heads and branches and published not in (None, branches):
        raise UserError(
            f"{where}: keys fit '{dialect}', whose classifiers sum {published} branches, got {asked} {branches}; "
            f"write {asked} {published}, or let the head start afresh"
        )
    return dialect


def select_domain(state_dict: Mapping[str, np.ndarray], domain: str, where: str = "weights") -> dict[str, np.ndarray]:
    """Returns a state dict with the batch norms of one domain in place of PLCA's domain-specific ones.

    `X.norm_layers.0.weight` (source) or `X.norm_layers.1.weight` (target) becomes `X.weight`; the other's are left out.

    Raises:
      UserError: a domain other than "source" and "target", or no such batch norm.
    """
    if domain not in DOMAINS:
        raise UserError(f"{where}: expected domain as 'source' or 'target', got '{domain}'")
    wanted = str(DOMAINS.index(domain))
    selected = {}
    for name, array in state_dict.items():
        found = re.fullmatch(r"(.+)\.norm_layers\.([01])\.(.+)", name)
        if not found:
            selected[name] = array
        elif found[2] == wanted:
            selected[f"{found[1]}.{found[3]}"] = array
    if len(selected) == len(state_dict):
        raise UserError(f"{where}: no batch norm is specific to a domain; leave the domain out")
    return selected


def cast(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a state dict with floating-point tensors as float32 and batch counters as int64.

    From float16 and bfloat16 this is exact; float64 is rounded. Tensors of the right type are not copied.
    """
    types = {"float16": np.float32, "bfloat16": np.float32, "float64": np.float32}
    cast_to = {
        name: np.int64 if name.endswith(".num_batches_tracked") else types.get(array.dtype.name, array.dtype)
        for name, array in state_dict.items()
    }
    return {name: np.asarray(array).astype(cast_to[name], copy=False) for name, array in state_dict.items()}


# The first name that is there decides. VGG: `features.24` is a convolution only where pool4 is counted.
_SIGNS = (
    ("multi_modal_distillation.self_attention.S.D.conv.weight", "corda"),
    ("classifier.0.convs.0.0.weight", "plca"),
    ("enc4_1.weight", "dada"),
    ("decode_head.scale_attention.conv_seg.weight", "hrda"),
    ("decode_head.fuse_layer.bottleneck.conv.weight", "daformer"),
    ("block1.0.attn.q.weight", "mit"),
    ("layers.0.1.0.attn.attn.in_proj_weight", "mit_mmseg"),
    ("segformer.encoder.block.0.0.attention.self.query.weight", "mit_hub"),
    ("layer5.conv2d_list.0.weight", "dacs"),
    ("_conv_stem.weight", "efficientnet_lite0"),
    ("upscale.up_conv1.weight", "vfm_uda_plusplus"),
    ("upscale.0.weight", "vfm_uda"),
    ("storage_tokens", "dinov3"),
    ("embeddings.patch_embeddings.weight", "dinov3_transformers"),
    ("embeddings.position_embeddings", "dinov2_transformers"),
    # timm's files have no mask token.
    ("mask_token", "dinov2"),
    ("blocks.0.ls1.gamma", "dinov2_timm"),
    ("stem.0.weight", "v1c_resnet101"),
    ("fc.weight", "torchvision_resnet"),
    ("features.29.weight", "vgg16"),
    ("features.24.weight", "torchvision_vgg16"),
    ("fc3.weight", "semantic_discriminator"),
    ("model.10.conv_block.1.weight", "cyclegan_generator"),
    ("model.11.weight", "cyclegan_discriminator"),
    ("classifier.weight", "adaptsegnet_discriminator"),
    ("8.weight", "advent_discriminator"),
)


def _torchvision_resnet(state_dict: Mapping[str, np.ndarray], where: str) -> str:
    """Returns the dialect of torchvision's ResNet by its depth."""
    basic = "layer1.0.conv3.weight" not in state_dict
    last, kind = ("conv2", "basic blocks") if basic else ("conv3", "bottlenecks")
    blocks = len([name for name in state_dict if re.fullmatch(rf"layer3\.\d+\.{last}\.weight", name)])
    known = {2: 18, 6: 34} if basic else {6: 50, 23: 101}
    if blocks not in known:
        sizes = " or ".join(f"{count} (ResNet-{depth})" for count, depth in known.items())
        raise UserError(f"{where}: a torchvision ResNet with {blocks} {kind} in layer3; expected {sizes}")
    return f"torchvision_resnet{known[blocks]}"


def _open(container: Any, which: str, where: str) -> tuple[Mapping[str, Any], bool]:
    """Returns the innermost dict of a container and whether its key says that it is the teacher's."""
    found = False
    # Deeper than anybody nests; a file may hold a dict that contains itself.
    for _ in range(8):
        if not isinstance(container, Mapping):
            raise UserError(f"{where}: expected a state dict, got {type(container).__name__}")
        students = [key for key in STUDENT_KEYS if isinstance(container.get(key), Mapping)]
        teacher = isinstance(container.get(TEACHER_KEY), Mapping)
        if which == "teacher" and teacher:
            container, found = container[TEACHER_KEY], True
        elif len(students) == 1:
            container = container[students[0]]
        elif students:
            keys = " and ".join(f"'{key}'" for key in students)
            raise UserError(f"{where}: holds state dicts under {keys}; keep one of them")
        elif teacher:
            raise UserError(f"{where}: holds an averaged teacher ('ema_model') only; ask for the teacher")
        else:
            return container, found
    raise UserError(f"{where}: state dicts are nested too deep; unwrap the file by hand")


def _strip(state_dict: Mapping[str, Any], which: str, where: str) -> tuple[dict[str, Any], bool]:
    """Returns the names without prefixes and whether a prefix said that they are the teacher's."""
    found = False
    while True:
        firsts = {name.split(".")[0] if "." in name else "" for name in state_dict}
        if firsts & {"ema_model", "imnet_model"}:
            prefix = "ema_model" if which == "teacher" else "model"
            stray = sorted(firsts - set(NETWORKS))
            if stray or prefix not in firsts:
                problem = f"'{stray[0]}.'" if stray else f"no '{prefix}.'"
                raise UserError(
                    f"{where}: names start with 'ema_model.' or 'imnet_model.', so that 'model.', 'ema_model.' and "
                    f"'imnet_model.' are expected, got {problem}"
                )
            found = found or which == "teacher"
        elif "network" in firsts:
            # VFM-UDA's: beside the student its teacher, a frozen encoder and what is counted while scoring.
            prefix = "network_ema" if which == "teacher" else "network"
            if prefix not in firsts:
                raise UserError(f"{where}: holds no averaged teacher ('network_ema.'); take the student")
            found = found or which == "teacher"
        # CycleGAN's own names start with `model.` and a number.
        elif firsts == {"model"} and not any(re.match(r"model\.\d", name) for name in state_dict):
            prefix = "model"
        elif len(firsts) == 1 and firsts <= set(WRAPPERS):
            (prefix,) = firsts
        else:
            return dict(state_dict), found
        start = f"{prefix}."
        state_dict = {name[len(start) :]: array for name, array in state_dict.items() if name.startswith(start)}
