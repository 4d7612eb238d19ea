"""The networks of self-supervised depth, and the other views of a frame: which there are, and from where."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax import networks, ops
from uda_jax.errors import UserError
from uda_jax.methods.parts.state import Batch
from uda_jax.ops.normalise import CONVENTIONS
from uda_jax.schema import Named, config_field
from uda_jax.training.precision import compute_dtype

# The networks' names in the state, which begin those of the networks that there are.
DISPARITY, MOTION = "disparity", "motion"
_NORM_TEXT = "Normalisation of images, for ops.normalise."

# What each choice of views reads of a frame, besides its image and its camera.
VIEWS = {
    "stereo": ("image_right",),
    "monocular": ("image_previous", "image_next"),
    "both": ("image_previous", "image_next", "image_right"),
}
CAMERA, BASELINE = "intrinsics", "baseline"
_PREVIOUS, _RIGHT = "image_previous", "image_right"


@dataclasses.dataclass(frozen=True)
class DisparityNetwork(Named):
    """Section: the network that predicts disparity; its other fields are the named network's own options."""

    name: str = config_field("disparity_resnet18", "Name of the network, for networks.build.")
    input_norm: str = config_field("imagenet_rgb", _NORM_TEXT, choices=CONVENTIONS)

    @classmethod
    def known_names(cls) -> Sequence[str]:
        """Returns the names of the networks that predict disparity."""
        return [name for name in networks.names() if name.startswith(f"{DISPARITY}_")]

    @classmethod
    def own_fields(cls, name: str) -> tuple[type, Mapping[str, Any]]:
        """Returns a network's options and their defaults."""
        return networks.find(name).options, networks.find(name).defaults


@dataclasses.dataclass(frozen=True)
class MotionNetwork(Named):
    """Section: the network that predicts the camera's motion; its other fields are the named network's own options."""

    name: str = config_field("motion_resnet18", "Name of the network, for networks.build.")
    input_norm: str = config_field("imagenet_rgb", _NORM_TEXT, choices=CONVENTIONS)

    @classmethod
    def known_names(cls) -> Sequence[str]:
        """Returns the names of the networks that predict motion."""
        return [name for name in networks.names() if name.startswith(f"{MOTION}_")]

    @classmethod
    def own_fields(cls, name: str) -> tuple[type, Mapping[str, Any]]:
        """Returns a network's options and their defaults."""
        return networks.find(name).options, networks.find(name).defaults


def build(section: DisparityNetwork | MotionNetwork, precision: str) -> nn.Module:
    """Returns the Flax module of either section."""
    options = {name: value for name, value in dataclasses.asdict(section).items() if name not in ("name", "input_norm")}
    return networks.build(section.name, 1, dtype=compute_dtype(precision), **options)


class Scene(NamedTuple):
    """A frame and its other views.

    Attributes:
      frame: images `[B, H, W, 3]` in [0, 1].
      views: by the name of its map, each as `frame`.
      cameras: camera matrices of all of them in pixels `[B, 3, 3]`.
      right: metres to the right camera, negative where it is to the left `[B]`; None without such a view.
    """

    frame: jax.Array
    views: Mapping[str, jax.Array]
    cameras: jax.Array
    right: jax.Array | None

    def in_time(self, view: str) -> tuple[jax.Array, jax.Array]:
        """Returns the frame and a view of another time, in their order in time."""
        return (self.views[view], self.frame) if is_earlier(view) else (self.frame, self.views[view])


def check_maps(batch: Batch, views: str) -> None:
    """Raises a UserError for a domain that lacks a map that the choice of views needs."""
    needed = ("image", *VIEWS[views], CAMERA, *((BASELINE,) if _RIGHT in VIEWS[views] else ()))
    for domain, maps in batch.items():
        if missing := [name for name in needed if name not in maps]:
            raise UserError(
                f"config.data.{domain}.fields: expected {', '.join(needed)} for views '{views}', got no {missing[0]}; "
                "add it, or choose other views"
            )


def scene(maps: Mapping[str, jax.Array], views: str) -> Scene:
    """Returns what a step reads of a batch of one domain, for one of the choices of `VIEWS`."""
    in_unit = lambda name: maps[name].astype(jnp.float32) / 255.0  # noqa: E731
    cameras = ops.camera_matrix(maps[CAMERA], maps["image"].shape[1:3])
    right = maps[BASELINE].astype(jnp.float32) if _RIGHT in VIEWS[views] else None
    return Scene(in_unit("image"), {name: in_unit(name) for name in VIEWS[views]}, cameras, right)


def jittered(scene: Scene, factors: jax.Array, orders: jax.Array) -> Scene:
    """Returns a scene in other colours, each frame's changed as those of its views; see `ops.photometric_jitter`."""
    images = jnp.stack([scene.frame, *scene.views.values()])
    # One program for all of them.
    frame, *views = jax.vmap(lambda each: ops.photometric_jitter(each, factors, orders))(images)
    return scene._replace(frame=frame, views=dict(zip(scene.views, views, strict=True)))


def stereo_motion(right: jax.Array) -> jax.Array:
    """Returns the motion `[B, 4, 4]` to a camera so far to the right `[B]`: points move to the left."""
    zero = jnp.zeros_like(right)
    return ops.rigid_motion(jnp.zeros((*right.shape, 3)), jnp.stack([-right, zero, zero], axis=-1))


def is_earlier(view: str) -> bool:
    """Whether a view is of the time before the frame's: the motion from the frame is then the inverse."""
    return view == _PREVIOUS


def is_right(view: str) -> bool:
    """Whether a view is of the same time, from a camera whose place is known."""
    return view == _RIGHT
