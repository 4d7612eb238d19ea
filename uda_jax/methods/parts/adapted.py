"""Networks of which a part is frozen: their parameters that learn, and beside them, once, those that do not.

A segmenter with `adapters` has two collections of parameters: "params", which players, optimisers and teachers have,
and "frozen" among the model state, which every forward of student and teacher reads and none changes.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from uda_jax.methods.parts.state import TrainState
from uda_jax.networks.encoder_adapters import LOW_RANK, TOKENS, Adapters, product, smallest_singular
from uda_jax.networks.foundation import InputOptions

FROZEN = "frozen"
_SEGMENTER, _SEPARATOR = "segmenter", "/"

Variables = Mapping[str, Any]


def separated(variables: Variables, learns: Callable[[str], bool]) -> dict[str, Any]:
    """Returns fresh Flax variables with the parameters that do not learn in "frozen"; as they are if all learn.

    Args:
      variables: {"params", ...}.
      learns: whether a parameter learns, by its path.
    """
    flat = _flat(variables["params"])
    frozen = {path: leaf for path, leaf in flat.items() if not learns(path)}
    if not frozen:
        return dict(variables)
    learnt = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return {**variables, "params": _nested(learnt), FROZEN: _nested(frozen)}


def joined(variables: Variables) -> dict[str, Any]:
    """Returns the variables that a Flax module takes, with all of its parameters in "params"."""
    own, frozen = without_frozen(variables), variables.get(FROZEN)
    return own if frozen is None else own | {"params": _nested(_flat(own["params"]) | _flat(frozen))}


def without_frozen(tree: Variables) -> dict[str, Any]:
    """Returns variables, or a model state, without the frozen parameters."""
    return {name: entry for name, entry in tree.items() if name != FROZEN}


def frozen_of(tree: Variables) -> dict[str, Any]:
    """Returns {"frozen": ...} of variables, or of a model state; {} if nothing is frozen."""
    return {FROZEN: tree[FROZEN]} if isinstance(tree, Mapping) and FROZEN in tree else {}


def loadable(variables: Variables) -> dict[str, Any]:
    """Returns the variables that a file of weights may hold: all but the low-rank parts, which are made of them."""
    whole = joined(variables)
    kept = {path: leaf for path, leaf in _flat(whole["params"]).items() if path.split(_SEPARATOR)[-1] not in LOW_RANK}
    return whole | {"params": _nested(kept)}


def fresh_parts(variables: Variables, found: Variables) -> tuple[str, ...]:
    """Returns the parts of `loadable` variables that a file does without: Rein's tokens, but of a run that has them."""
    has = [TOKENS in tree["params"].get("encoder", {}) for tree in (variables, found)]
    return (f"encoder/{TOKENS}",) if has == [True, False] else ()


def loaded(variables: Variables, found: Variables) -> dict[str, Any]:
    """Returns variables whose arrays are, where they have any, those of `found`, as `loadable` has them."""
    params = _flat(found["params"])
    taken = {name: found.get(name, entry) for name, entry in variables.items()}
    for name in {"params", FROZEN} & set(variables):
        flat = _flat(variables[name])
        taken[name] = _nested({path: params.get(path, leaf) for path, leaf in flat.items()})
    return taken


def decomposed(method: Any, state: TrainState) -> TrainState:
    """Returns the state with the low-rank parts of SoMA made of the weights that have been loaded.

    The network computes what it did before. Every array stays where it was placed.
    """
    adapters = _adapters(method)
    if adapters.name != "soma":
        return state
    model_state = state.model_state[_SEGMENTER]
    params, frozen = _flat(state.params[_SEGMENTER]), _flat(model_state[FROZEN])
    for path, kernel in list(frozen.items()):
        names = [path, *(_beside(path, name) for name in LOW_RANK)]
        if names[1] not in params:
            continue
        into, out = params[names[1]], params[names[2]]
        split = _splitter(into.shape[-1], len(into), (kernel.sharding, into.sharding, out.sharding))
        frozen[path], params[names[1]], params[names[2]] = split(kernel)
    return state.replace(
        params=state.params | {_SEGMENTER: _nested(params)},
        model_state=state.model_state | {_SEGMENTER: model_state | {FROZEN: _nested(frozen)}},
    )


def apart(state: TrainState) -> TrainState:
    """Returns the state as checkpoints have it: frozen parameters among the networks that never change."""
    parts, frozen = networks_apart({"model_state": state.model_state})
    return state.replace(**parts, frozen=state.frozen | frozen)


def together(state: TrainState) -> TrainState:
    """Returns the state that `apart` was made of."""
    frozen = {name: entry for name, entry in state.frozen.items() if name in state.params}
    others = {name: entry for name, entry in state.frozen.items() if name not in frozen}
    return state.replace(**networks_together({"model_state": state.model_state}, frozen), frozen=others)


def networks_apart(parts: Variables) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns parts of a state, such as {"params": {"segmenter": ...}, "model_state": ...}, as `apart` has them.

    They are those without frozen parameters, and these as networks that never change.
    """
    states = parts.get("model_state", {})
    frozen = {name: {"params": tree[FROZEN], "model_state": {}} for name, tree in states.items() if frozen_of(tree)}
    if not frozen:
        return dict(parts), {}
    return {**parts, "model_state": {name: without_frozen(tree) for name, tree in states.items()}}, frozen


def networks_together(parts: Variables, frozen: Variables) -> dict[str, Any]:
    """Returns the parts of which `networks_apart` has made both."""
    states = parts.get("model_state", {})
    added = {name: states.get(name, {}) | {FROZEN: entry["params"]} for name, entry in frozen.items()}
    return {**parts, "model_state": states | added} if frozen else dict(parts)


def merged(method: Any, state: TrainState) -> tuple[Any, TrainState]:
    """Returns a method and a state that predict the same, whose segmenter has no frozen part and no low-rank ones.

    Rein's tokens are no part of any matrix, and stay.
    """
    if _adapters(method).name == "none":
        return method, state
    variables = whole({"params": state.params[_SEGMENTER], **state.model_state[_SEGMENTER]})
    state = state.replace(
        params=state.params | {_SEGMENTER: variables.pop("params")},
        model_state=state.model_state | {_SEGMENTER: variables},
    )
    return without_adapters(method), state


def without_adapters(method: Any) -> Any:
    """Returns the method whose segmenter takes the variables of `whole`."""
    if _adapters(method).name != "soma":
        return method
    return dataclasses.replace(method, segmenter=dataclasses.replace(method.segmenter, adapters=Adapters()))


def whole(variables: Variables) -> dict[str, Any]:
    """Returns a segmenter's variables with the frozen parameters in their places, and low-rank parts added to them."""
    variables = joined(variables)
    flat = _flat(variables["params"])
    for path in [path for path in flat if path.endswith(_SEPARATOR + LOW_RANK[0])]:
        into, out = (jnp.asarray(flat.pop(_beside(path, name))) for name in LOW_RANK)
        kernel = _beside(path, "kernel")
        flat[kernel] = flat[kernel] + product(into, out)
    return variables | {"params": _nested(flat)}


def _adapters(method: Any) -> Adapters:
    options = getattr(getattr(method, _SEGMENTER, None), "options", None)
    return options.adapters if isinstance(options, InputOptions) else Adapters()


@functools.cache
def _splitter(rank: int, parts: int, shardings: tuple) -> Callable[..., Any]:
    split = functools.partial(smallest_singular, rank=rank, parts=parts)
    return jax.jit(split, out_shardings=shardings)


def _beside(path: str, name: str) -> str:
    return _SEPARATOR.join((*path.split(_SEPARATOR)[:-1], name))


def _flat(tree: Variables) -> dict[str, Any]:
    return flatten_dict(tree, sep=_SEPARATOR)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten_dict(dict(flat), sep=_SEPARATOR)
