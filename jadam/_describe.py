"""What a transformation does to each parameter, as a table."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jadam._landing import ParamStorage
from jadam._layout import Layout
from jadam._precision import check_precision, parts_of
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, arrays, owners, slashed


def describe(tx: GradientTransformation, params: PyTree) -> str:
    """A table for `print`: path, shape, dtype, group, rules and bytes of state of each parameter, and the sums.

    Below it stands what `check_precision` says.

    Args:
        tx: a transformation of jadam.
        params: a tree of arrays.

    Raises:
        ValueError: a mask does not fit the parameters.
        TypeError: a leaf is no array.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> params = {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)}
        >>> tx = jadam.partition([(jadam.match("bias"), jadam.freeze()), (True, jadam.adam(1e-3))])
        >>> print(jadam.describe(tx, params))
        path    shape   dtype    group          rules                state bytes
        bias    (4,)    float32  match('bias')  set_to_zero                    0
        kernel  (8, 4)  float32  everything     adam, learning_rate          256
        2 arrays with 36 parameters, 280 bytes of state: 7.78 a parameter
    """
    by_name = parts_of("describe", tx)
    where = f"describe({tx.name})"
    params = arrays(where, "params", params)
    layout = Layout.of(params)
    leaves = layout.leaves
    landings = layout.landings(where, by_name)
    chosen = [(key, part, layout.selected(where, part)) for key, part in by_name.items()]
    state = jax.eval_shape(tx.init, params)
    sizes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    owned = owners(state, leaves)

    rows = [("path", "shape", "dtype", "group", "rules", "state bytes")]
    for number, (path, leaf) in enumerate(zip(leaves.paths, leaves.values, strict=True)):
        own = [(key, part) for key, part, indices in chosen if number in indices]
        lands = landings[number][0] if number in landings else ""
        parts = [part for key, part in own if not isinstance(part.rule, ParamStorage) or key == lands]
        rules = ", ".join(part.rule.key for part in parts) or ("none" if number in layout.trained else "not trained")
        group = ", ".join(dict.fromkeys(part.group for part in parts if part.group)) or "-"
        size = sum(size for size, owner in zip(sizes, owned, strict=True) if owner == number)
        rows.append((slashed(path) or ".", str(jnp.shape(leaf)), str(leaf.dtype), group, rules, f"{size:,}"))
    if all(row[3] == "-" for row in rows[1:]):
        rows = [row[:3] + row[4:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])]) for row in rows]
    count = sum(leaves.values[number].size for number in layout.trained)
    per_parameter = f": {sum(sizes) / count:.2f} a parameter" if count else ""
    lines.append(f"{len(leaves.values)} arrays with {count:,} parameters, {sum(sizes):,} bytes of state{per_parameter}")
    found = check_precision(tx, params)
    more = [f"... and {len(found) - 1} more: see check_precision"] if len(found) > 1 else []
    return "\n".join(lines + found[:1] + more)
