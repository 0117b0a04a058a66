"""What a transformation does to each parameter, as a table."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import jax
import jax.numpy as jnp

from jadam._chain import not_ours
from jadam._engine.plan import Placed, Plan
from jadam._errors import door
from jadam._precision import check_precision
from jadam._state import owners
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, flatten, strong


@door
def describe(tx: GradientTransformation, params: PyTree) -> str:
    """A table for `print`: path, shape, dtype, group, rules and bytes of state of each parameter, and the sums.

    Below it is the first sentence of `check_precision`.

    Args:
        tx: a transformation of jadam.
        params: a tree of arrays.

    Raises:
        ValueError: a mask does not fit the parameters.
        TypeError: a leaf is not an array; `tx` is not a jadam transformation.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> params = {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)}
        >>> tx = jadam.partition([(jadam.match("bias"), jadam.freeze()), (True, jadam.adam(1e-3))])
        >>> print(jadam.describe(tx, params))
        path    shape   dtype    group             rules                state bytes
        bias    (4,)    float32  0: match('bias')  frozen                         0
        kernel  (8, 4)  float32  1: everything     adam, learning_rate          256
        2 arrays with 36 parameters, 304 bytes of state: 8.44 a parameter
    """
    if not isinstance(tx, GradientTransformation):
        raise not_ours(tx)
    params, values, treedef = strong("params", params, shapes=True)
    plan, leaves = Plan.of(tx.recipe, values, treedef), flatten(params)
    state = jax.eval_shape(tx.init, params)
    sizes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    size: Counter[int | None] = Counter()  # by the number of the parameter; in one pass, since a tree may have 10,000 leaves
    for owner, of_leaf in zip(owners(state, leaves), sizes, strict=True):
        size[owner] += of_leaf
    acting: dict[int, list[Placed]] = defaultdict(list)
    for placed in plan.all:
        for number in placed.at:
            acting[number].append(placed)

    rows = [("path", "shape", "dtype", "group", "rules", "state bytes")]
    for number, (name, leaf) in enumerate(zip(leaves.names, leaves.values, strict=True)):
        parts = acting[number]
        landing = [plan.storage(number).key] if number in plan.landings else []
        rules = ", ".join([*(placed.rule.key for placed in parts), *landing])
        rules = rules or ("frozen" if number in plan.frozen else "none" if number in plan.trained else "not trained")
        groups = [placed.group for placed in parts] + [plan.frozen.get(number, "")]
        group = ", ".join(dict.fromkeys(filter(None, groups))) or "-"
        rows.append((name or ".", str(jnp.shape(leaf)), str(leaf.dtype), group, rules, f"{size[number]:,}"))
    if all(row[3] == "-" for row in rows[1:]):
        rows = [row[:3] + row[4:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])]) for row in rows]
    count = sum(leaves.values[number].size for number in (*plan.trained, *plan.frozen))
    per_parameter = f": {sum(sizes) / count:.2f} a parameter" if count else ""
    lines.append(f"{len(leaves.values)} arrays with {count:,} parameters, {sum(sizes):,} bytes of state{per_parameter}")
    found = check_precision(tx, params)
    more = [f"... and {len(found) - 1} more: see check_precision"] if len(found) > 1 else []
    return "\n".join(lines + found[:1] + more)
