"""The axes of a matrix in an array of any shape, and the way there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jax import Array

from jadam._errors import BadType, BadValue
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
        own = [tuple([axis % ndim if -ndim <= axis < ndim else axis for axis in group]) for group in self.groups]
        return Axes(own[0], own[1], own[2], self.split) if sorted(sum(own, ())) == list(range(ndim)) else None

    @property
    def in_order(self) -> Axes:
        """The same with the sides in the order of the array, in which its matrices need not be transposed."""
        return Axes(self.outputs, self.inputs, self.stacked) if self.split == 1 and self.outputs < self.inputs else self

    @property
    def several(self) -> bool:
        """Whether the array has matrices along an axis, and is not one itself."""
        return bool(self.stacked or self.split > 1)

    @property
    def groups(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return self.inputs, self.outputs, self.stacked

    def __repr__(self) -> str:
        stacked = f", stacked={self.stacked}" * bool(self.stacked)
        return f"axes(inputs={self.inputs}, outputs={self.outputs}{stacked}{f', split={self.split}' * (self.split > 1)})"

    def shown(self, shape: tuple[int, ...]) -> str:
        """A shape with what each axis is: `(12 stacked, 64 in, 3x64 out)`."""
        names = {axis: name for group, name in zip(self.groups, ("in", "out", "stacked"), strict=True) for axis in group}
        lengths = [str(length) for length in shape]
        if self.split > 1:
            lengths[self.outputs[0]] = f"{self.split}x{shape[self.outputs[0]] // self.split}"
        return "(" + ", ".join(f"{length} {names[axis]}" for axis, length in enumerate(lengths)) + ")"


def checked_axes(inputs: object, outputs: object, stacked: object, split: object) -> Axes:
    """`Axes` of what a user wrote: integers, or sequences of integers."""
    groups = []
    for name, value in (("inputs", inputs), ("outputs", outputs), ("stacked", stacked)):
        group = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not all(type(axis) is int for axis in group):
            raise BadType("{name} must be an axis, or a tuple of axes such as (1, 2).", **{name: value})
        if not group and name != "stacked":
            raise BadValue("{name} must be at least one axis.", **{name: value})
        groups.append(group)
    if len(set(sum(groups, ()))) < sum(map(len, groups)):
        raise BadValue(f"an axis is named twice, in {groups[0]}, {groups[1]} and {groups[2]}.")
    if type(split) is not int or split < 1:
        raise BadValue("{name} must be an integer >= 1.", split=split)
    return Axes(groups[0], groups[1], groups[2], split)


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
