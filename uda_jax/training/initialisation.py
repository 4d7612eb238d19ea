"""First states by a handful of small programs, where one for everything takes half a minute to compile.

What a state's arrays start from are random vectors of few lengths (see `networks.initialisers`). Every distinct draw is
a program, compiled once and called for every vector; what is left, scaling, shaping and zeros, is one more, which
compiles quickly. The networks' forwards, traced for the shapes of parameters, are left out.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

# Compilers that work side by side; they leave Python's lock to each other.
COMPILERS = 4


@dataclasses.dataclass(frozen=True)
class Traced:
    """What draws a first state, traced once: its shapes are there before it is drawn.

    Attributes:
      program: of a typed PRNG key, without what its results do not depend on.
      shapes: of its results, as the tree that they are.
    """

    program: ClosedJaxpr
    shapes: Any


def trace(function: Callable[[jax.Array], Any]) -> Traced:
    """Returns a function of a typed PRNG key, traced; it is pure, and draws what it returns from its argument."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(jax.random.key(0))
    whole = closed.jaxpr
    needed = _needed(whole.eqns, whole.outvars)
    used = {var for equation in needed for var in equation.invars if not isinstance(var, Literal)}
    used.update(var for var in whole.outvars if not isinstance(var, Literal))
    kept = {var: const for var, const in zip(whole.constvars, closed.consts, strict=True) if var in used}
    return Traced(ClosedJaxpr(whole.replace(constvars=tuple(kept), eqns=needed), tuple(kept.values())), shapes)


def initialise(function: Callable[[jax.Array], Any], key: jax.Array, shardings: Any = None) -> Any:
    """Returns `function(key)`, as `draw` does for a function that was not traced before."""
    return draw(trace(function), key, shardings)


def draw(traced: Traced, key: jax.Array, shardings: Any = None) -> Any:
    """Returns what a function returns for a key, with the numbers of `jax.jit`, each array in memory of its own.

    Args:
      traced: the function.
      key: typed PRNG key.
      shardings: of the arrays that it returns, one for all or a tree of them; None = on the default device.
    """
    whole = traced.program.jaxpr
    drawn = [var for equation in whole.eqns if any(map(_is_key, equation.invars)) for var in equation.outvars]
    drawing = _needed(whole.eqns, drawn)
    known = dict(zip((*whole.constvars, *whole.invars), (*traced.program.consts, key), strict=True))
    _draw(drawing, known, whole)
    done = set(map(id, drawing))
    rest = [equation for equation in whole.eqns if id(equation) not in done]
    arguments = tuple(known)
    finish = jaxpr_as_fun(ClosedJaxpr(whole.replace(constvars=(), invars=arguments, eqns=rest), ()))
    structure = jax.tree.structure(traced.shapes)
    placed = jax.jit(lambda *given: jax.tree.unflatten(structure, finish(*given)), out_shardings=shardings)
    return placed(*(known[var] for var in arguments))


def _is_key(var: Any) -> bool:
    return jax.dtypes.issubdtype(var.aval.dtype, jax.dtypes.prng_key)


def _needed(equations: Sequence[JaxprEqn], outvars: Sequence[Any]) -> list[JaxprEqn]:
    """Returns the equations that some variables depend on, in their order."""
    wanted = {var for var in outvars if not isinstance(var, Literal)}
    found = []
    for equation in reversed(equations):
        if not wanted.isdisjoint(equation.outvars):
            found.append(equation)
            wanted.update(var for var in equation.invars if not isinstance(var, Literal))
    return found[::-1]


def _draw(equations: Sequence[JaxprEqn], known: dict[Any, Any], whole: Jaxpr) -> None:
    """Adds what some equations make to the variables that are known, by one program for each distinct equation."""
    programs = _programs(equations, whole)
    for equation in equations:
        given = [var.val if isinstance(var, Literal) else known[var] for var in equation.invars]
        known.update(zip(equation.outvars, programs[_text(equation)](*given), strict=True))


def _programs(equations: Sequence[JaxprEqn], whole: Jaxpr) -> Mapping[str, Callable[..., Sequence[jax.Array]]]:
    """Compiles the distinct ones of some equations of a program, whose literals become arguments."""
    distinct = {_text(equation): equation for equation in equations}

    def compiled(equation: JaxprEqn) -> Callable[..., Sequence[jax.Array]]:
        arguments = [Var(var.aval) for var in equation.invars]
        single = [equation.replace(invars=arguments)]
        program = whole.replace(constvars=(), invars=arguments, outvars=equation.outvars, eqns=single)
        shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in arguments]
        return jax.jit(jaxpr_as_fun(ClosedJaxpr(program, ()))).lower(*shapes).compile()

    with ThreadPoolExecutor(COMPILERS) as pool:
        return dict(zip(distinct, pool.map(compiled, distinct.values()), strict=True))


def _text(equation: JaxprEqn) -> str:
    """Returns what two equations share if one program computes both."""
    types = [var.aval.str_short() for var in equation.invars]
    return f"{equation.primitive} {types} {equation.params}"
