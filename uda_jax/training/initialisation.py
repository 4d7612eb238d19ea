"""First states by a handful of small programs, where one for everything takes half a minute to compile.

What a state's arrays start from are random vectors of few lengths (see `networks.initialisers`). Every distinct draw is
a program, compiled once and called for every vector; what is left, scaling, shaping and zeros, is one more, which
compiles quickly. The networks' forwards, traced for the shapes of parameters, are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

# Compilers that work side by side; they leave Python's lock to each other.
COMPILERS = 4


def initialise(function: Callable[[jax.Array], Any], key: jax.Array, shardings: Any = None) -> Any:
    """Returns `function(key)`, with the numbers of `jax.jit(function)`, each array in memory of its own.

    Args:
      function: pure; it draws what it returns from its argument.
      key: typed PRNG key.
      shardings: of the arrays that it returns, one for all or a tree of them; None = on the default device.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(key)
    whole = closed.jaxpr
    needed = _needed(whole.eqns, whole.outvars)
    drawn = [var for equation in needed if any(map(_is_key, equation.invars)) for var in equation.outvars]
    drawing = _needed(needed, drawn)
    known = dict(zip((*whole.constvars, *whole.invars), (*closed.consts, key), strict=True))
    _draw(drawing, known, whole)
    done = set(map(id, drawing))
    rest = [equation for equation in needed if id(equation) not in done]
    arguments = tuple(known)
    finish = jaxpr_as_fun(ClosedJaxpr(whole.replace(constvars=(), invars=arguments, eqns=rest), ()))
    structure = jax.tree.structure(shapes)
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
