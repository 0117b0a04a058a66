"""The axes of a matrix in an array of any shape, and the way there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jax import Array

from jadam._errors import BadType, BadValue, shown
from jadam._tree import quoted


@dataclass(frozen=True)
class Axes:
    """Which axes of an array are what.

    Attributes:
        inputs: the axes that are summed over when the layer is applied.
        outputs: the others.
        stacked: along these, each index has a matrix of its own.
        split: how many matrices stand side by side along the outputs.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stacked: tuple[int, ...] = ()
    split: int = 1

    def of(self, ndim: int) -> Axes | None:
        """The same as numbers from 0; None if they are not the axes of an array with `ndim` axes, each once."""
        groups = [tuple([axis % ndim if -ndim <= axis < ndim else axis for axis in group]) for group in self.groups]
        return Axes(*groups, self.split) if sorted(sum(groups, ())) == list(range(ndim)) else None

    @property
    def groups(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return self.inputs, self.outputs, self.stacked

    def __repr__(self) -> str:
        stacked = f", stacked={self.stacked}" * bool(self.stacked)
        return f"axes(inputs={self.inputs}, outputs={self.outputs}{stacked}{f', split={self.split}' * (self.split > 1)})"

    def words(self, ndim: int) -> str:
        """Each axis by what it is, in order: `stacked in out`."""
        names = {axis: name for group, name in zip(self.groups, ("in", "out", "stacked"), strict=True) for axis in group}
        return " ".join(names[axis] for axis in range(ndim)) + f" split {self.split}" * (self.split > 1)


def checked_axes(inputs: object, outputs: object, stacked: object, split: object) -> Axes:
    """`Axes` of what a user wrote: integers, or sequences of integers."""
    groups = []
    for name, value in (("inputs", inputs), ("outputs", outputs), ("stacked", stacked)):
        group = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not all(type(axis) is int for axis in group):
            raise BadType(f"axes({name}={shown(value)}): write an axis, or a tuple of axes, such as (1, 2).")
        if not group and name != "stacked":
            raise BadValue(f"axes({name}=()): a matrix has {name}; name at least one axis.")
        groups.append(group)
    if len(set(sum(groups, ()))) < sum(map(len, groups)):
        raise BadValue(f"{Axes(*groups)} names an axis twice.")
    if type(split) is not int or split < 1:
        raise BadValue(f"axes(split={shown(split)}): split must be an integer >= 1.")
    return Axes(*groups, split)


def fitting(axes: Axes, name: str, shape: tuple[int, ...]) -> Axes:
    """The axes that a user gave, for an array of this name and shape."""
    own = axes.of(len(shape))
    if own is None:
        raise BadValue(
            f"{axes} does not name each axis of {quoted(name)} once, which has shape {shape}; give every axis to inputs, "
            "outputs or stacked."
        )
    if own.split > 1 and shape[own.outputs[0]] % own.split:
        raise BadValue(f"{axes} splits the outputs of {quoted(name)}, which has shape {shape}, into unequal parts.")
    return own


def sides(own: Axes, shape: tuple[int, ...]) -> tuple[int, int]:
    """The lengths of the inputs and of the outputs of one matrix."""
    rows, columns = (math.prod(shape[axis] for axis in group) for group in own.groups[:2])
    return rows, columns // own.split


def to_matrices(x: Array, own: Axes) -> Array:
    """The matrices of an array, (n, inputs, outputs)."""
    rows, columns = sides(own, x.shape)
    x = x.transpose(*own.stacked, *own.inputs, *own.outputs)
    if own.split == 1:
        return x.reshape(-1, rows, columns)
    return x.reshape(-1, rows, own.split, columns).swapaxes(1, 2).reshape(-1, rows, columns)


def from_matrices(matrices: Array, own: Axes, shape: tuple[int, ...]) -> Array:
    """The array of this shape of which these are the matrices."""
    order = (*own.stacked, *own.inputs, *own.outputs)
    back = sorted(range(len(order)), key=order.__getitem__)
    if own.split > 1:
        matrices = matrices.reshape(-1, own.split, *matrices.shape[1:]).swapaxes(1, 2)
    return matrices.reshape([shape[axis] for axis in order]).transpose(back)
