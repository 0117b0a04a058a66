"""The gradient of a table of which a batch touches few rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path

from jadam._dtypes import cast, full_dtype
from jadam._errors import BadType, BadValue, door, naming
from jadam._tables import LOST, gather, narrow, scatter, summed, unique
from jadam._tree import PyTree, is_array

DENSE = "pass the gradient of the whole table, or put the table into a group of its own: jadam.partition([(mask, tx), ...])."
"""What to write where `Rows` are refused."""


def _complement(ids: Any) -> Any:
    return None if ids is None else ~ids


class Rows:
    """The gradient of a table as the rows that a batch touches: a pytree node of `ids`, their complement, and `values`.

    It may stand in a tree of gradients wherever the parameter is an array whose first axis counts rows. `tx.step` and
    `tx.update` then read and write these rows of the parameter and of its slots, and no others. `tx.update` returns `Rows`,
    which `apply_updates` adds.

    Two of them are added as the gradients that they are, `a + b`, and multiplied by a number. In a tree, say that they are
    leaves: `jax.tree.map(operator.add, a, b, is_leaf=lambda x: isinstance(x, jadam.Rows))`. A function of all arrays of a tree
    would change ids too. The complement, `~ids`, shows that: it goes along with ids wherever they are moved, and is theirs no
    more after any arithmetic. The step is an error then, or NaN.

    Args:
        ids: integers of shape (n,), the rows. Values of an id that stands there several times are summed. An id past the end
            of the table is padding. Where numbers are known, none may be negative. Under `jit`, negative ones count from the
            end, as in `table[ids]`; one that is before the first row makes the step NaN.
        values: an array of shape (n, ...): the gradient of each of these rows.
        distinct: whether ids are sorted and each stands there once, as `unique_rows` returns them; they are then not sorted
            again. Under `jit` it is not checked.

    Raises:
        TypeError: `ids` are not integers, or `values` are not an array.
        ValueError: `ids` do not have one axis, there are more or fewer than values, one is negative, or they are not distinct.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.sgd(1.0), {"table": jnp.zeros((4, 2))}
        >>> grads = {"table": jadam.Rows(jnp.array([2, 0, 2]), jnp.ones((3, 2)))}
        >>> params, state = tx.step(grads, tx.init(params), params)
        >>> params["table"][:, 0]
        Array([-1.,  0., -2.,  0.], dtype=float32)
    """

    ids: Array
    complement: Array
    values: Array
    distinct: bool

    def __init__(self, ids: Any, values: Any, *, distinct: bool = False):
        with naming("Rows"):
            ids, values = _array("ids", ids), _array("values", values)
            _check_integers(ids)
            self.ids, self.complement, self.values, self.distinct = ids, ~ids, values, bool(distinct)
            if words := ill_formed(self):
                raise BadValue(words)
            if not isinstance(ids, Tracer):
                _check_known(ids)
                if distinct and bool((ids[1:] <= ids[:-1]).any()):
                    raise BadValue(
                        "distinct=True is for ids that are sorted, each once, as unique_rows returns them; leave it out."
                    )

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Rows):
            names = ("ids", "values", "complement")
            ids, values, complement = (jnp.concatenate([getattr(x, name) for x in (self, other)]) for name in names)
            return Rows.of(ids, values, complement)
        return self.__radd__(other)

    def __radd__(self, table: Any) -> Array:
        # `optax.apply_updates` writes `p + u`, and so do libraries that are built on it.
        if not hasattr(table, "shape"):
            return NotImplemented
        with naming("Rows"):
            if words := ill_formed(self):
                raise BadValue(f"their {words}")
        return add_rows(jnp.asarray(table), self)

    def __mul__(self, factor: Any) -> Rows:
        with naming("Rows"):
            if np.ndim(factor) != 0:
                raise BadValue(f"they can be multiplied by a number, not by an array of shape {np.shape(factor)}.")
            return Rows.of(self.ids, self.values * factor, self.complement, self.distinct)

    __rmul__ = __mul__
    __array_ufunc__ = None  # so that arrays of numpy leave arithmetic to these methods

    def __repr__(self) -> str:
        return f"Rows(ids={self.ids!r}, values={self.values!r}{', distinct=True' if self.distinct else ''})"

    @classmethod
    def of(cls, ids: Any, values: Any, complement: Any = None, distinct: bool = False) -> Rows:
        """The same, unchecked: JAX builds trees of whatever it needs in place of arrays."""
        rows = object.__new__(cls)
        rows.ids, rows.values, rows.distinct = ids, values, distinct
        rows.complement = _complement(ids) if complement is None else complement
        return rows

    def narrowed(self, length: int) -> Array:
        """Ids as int32, of a table of this length; `LOST` if something has changed them."""
        ids, complement = (jnp.asarray(x) for x in (self.ids, self.complement))
        narrowed = narrow(ids, length)
        return lax.select((complement != ~ids).any(), jnp.full_like(narrowed, LOST), narrowed)


_CHILDREN = ("ids", "complement", "values")
jax.tree_util.register_pytree_with_keys(
    Rows,
    lambda rows: (tuple((GetAttrKey(name), getattr(rows, name)) for name in _CHILDREN), rows.distinct),
    lambda distinct, children: Rows.of(**dict(zip(_CHILDREN, children, strict=True)), distinct=distinct),
    lambda rows: (tuple(getattr(rows, name) for name in _CHILDREN), rows.distinct),
)


def is_rows(node: Any) -> bool:
    return isinstance(node, Rows)


def _array(name: str, value: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    try:
        if is_array(found := np.asarray(value)):
            return jnp.asarray(found)
    except ValueError:  # a list of lists of different lengths
        pass
    raise BadType("{name} must be an array.", **{name: value})


def ill_formed(rows: Rows) -> str:
    """In words, why ids do not fit their values; empty where they do."""
    ids, values, complement = rows.ids, rows.values, rows.complement
    if not (jnp.issubdtype(ids.dtype, jnp.integer) and (ids.shape, ids.dtype) == (complement.shape, complement.dtype)):
        return (
            f"ids are {ids.dtype} now: a function of all arrays of a tree changed them with the values; give it "
            "is_leaf=lambda x: isinstance(x, jadam.Rows), and transformations of others only the updates of whole tables."
        )
    if ids.ndim != 1:
        return f"ids must have one axis, not the shape {ids.shape}; write ids.reshape(-1), and values alike."
    if values.shape[:1] != ids.shape:
        return f"ids are {len(ids)}, and values have the shape {values.shape}: one value for each id."
    return ""


def refuse_rows(tree: PyTree) -> None:
    """Refuses `Rows` in a tree that should be one of parameters."""
    for path, node in tree_flatten_with_path(tree, is_leaf=is_rows)[0]:
        if is_rows(node):
            where = keystr(path, simple=True, separator="/") or "the root"
            raise BadType(
                f"{where} is Rows, which stand for the gradient of a table and not for a parameter; call init(params), and "
                "update(grads, state, params) with the parameters."
            )


def _check_integers(ids: Array) -> None:
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise BadType(f"ids must be integers, not {ids.dtype}.")


def _check_known(ids: Array) -> None:
    """Whether ids of which the numbers are known are rows."""
    if ids.size and (least := int(ids.min())) < 0:
        raise BadValue(f"ids has {least}; rows count from 0, and padding is past the end of the table.")


@door
def unique_rows(ids: Any, *, rows: int, size: int | None = None) -> Array:
    """The distinct ids of a batch in order, padded past the end of the table to a number that does not depend on the batch.

    Differentiate with respect to these rows of a table, and a gradient has `size` rows, not one for each id of the batch.

    Args:
        ids: integers >= 0 of any shape; those past the end of the table are padding.
        rows: of the table, >= 1.
        size: of the result, >= 1; by default all fit. More distinct ids are an error. Under `jit`, where that is not known,
            the step that gets the result in `Rows` is NaN then, and so where an id is negative: nothing is lost unseen.

    Returns:
        int32 of shape (size,), for `Rows(..., distinct=True)`.

    Raises:
        TypeError: `ids` are not integers.
        ValueError: there are more distinct ids than `size`; an argument is out of its range.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> batch = jnp.array([7, 2, 7])
        >>> ids = jadam.unique_rows(batch, rows=10, size=4)
        >>> ids, jnp.searchsorted(ids, batch)
        (Array([ 2,  7, 12, 13], dtype=int32), Array([1, 0, 1], dtype=int32))
    """
    ids = _array("ids", ids)
    _check_integers(ids)
    for name, number in (("rows", rows), ("size", size)):
        if not isinstance(number, int | np.integer | None) or isinstance(number, bool) or (number is not None and number < 1):
            raise BadValue("{name} must be an integer >= 1.", **{name: number})
    room = max(min(ids.size, rows), 1) if size is None else int(size)
    known = not isinstance(ids, Tracer)
    if known:
        _check_known(ids)
    found, count = unique(ids.reshape(-1), rows, room)
    if known and int(count) > room:
        raise BadValue(f"there are {int(count)} distinct ids, and the size is {room}; give it a larger size.")
    return found


def of_rows(rows: Rows) -> Array:
    """The gradient of each row, for its norm: padding, of which nothing is known without the table, is a row too."""
    length = np.iinfo(np.int32).max - rows.ids.size
    return summed(rows.narrowed(length), rows.values, rows.distinct, length, rows.values.dtype)[1]


def add_rows(table: Array, rows: Rows) -> Array:
    """A table plus an update of some of its rows, in the dtype of the table."""
    ids, u = summed(rows.narrowed(table.shape[0]), rows.values, rows.distinct, table.shape[0], table.dtype)
    old = gather(table, ids)
    exact = full_dtype(table.dtype)
    new = lax.add(old, u) if u.dtype == old.dtype else cast(cast(old, exact) + cast(u, exact), old.dtype)
    return scatter(table, ids, new)
