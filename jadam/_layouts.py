"""How models lay out their weights: which axes of an array are inputs, which are outputs, and which stack matrices.

A tree says it by names, as libraries give them, by the classes of modules where they are part of it (equinox), by what stands
beside a kernel (its bias has the axes of the outputs), and by what a module's arrays share (layers under one `scan` have one
leading axis in common).
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jadam._axes import Axes
from jadam._tree import Leaves

# Names, in lower case. `seg` is a key of a path; the last names the array, the one before its layer.
VECTOR = re.compile(r"(.*_)?(bias|biases|scale|scales|offset|gamma|beta|gain|shift|a_log)|[bg]\d*")
NORM = re.compile(r".*norm.*|ln(_?\w{0,2}|_.*)|.*_ln\d*")
EMBEDDING = re.compile(
    r".*embed.*|(.*_)?emb(_?\d+|_.*|s)?|posemb|w[tp]e|.*_table|vocab\w*|(.*_)?(cls|mask|class|register)_?token(s)?|cls"
)
HEAD = re.compile(
    r"(.*_)?heads?|(.*_)?logits(_\w+)?|(final_|last_|readout_|prediction_)?output(_layer|_projection|_proj)?|classifier|readout|last(_layer)?"
)
TORCH = re.compile(r"weights?(_.*)?")  # (out, in), as torch and equinox have it
ATTENTION_IN = re.compile(r"(.*_)?(q|k|v|query|key|value|qkv)(_proj|_projection|_kernel)?")
ATTENTION_OUT = re.compile(r"(.*_)?(o|out|output|attn_vec_einsum)(_proj|_projection|_einsum|_kernel)?")
FUSED = re.compile(r"(.*_)?(to_)?qkv(_proj|_kernel)?|c_attn|in_proj(_weight)?")
STACKED = re.compile(r"(.*_)?(experts?|moe)(_.*)?|.*(?<!vec)_einsum")  # of Gemma: (heads, in, size), (2, in, out)
CONV = re.compile(r".*conv.*")
LAYERS = re.compile(r"(.*_)?(layers|blocks|h|stack)|.*scan.*")
NUMBERED = re.compile(r".*\d")


@dataclass(frozen=True)
class Found:
    """What a tree says of one array.

    Attributes:
        axes: None for what has no matrix.
        weights: whether it is one by its name too: no bias, and no scale.
        hidden: whether it is inside the network besides: no embedding, and no head.
        sure: whether it is one with two axes, or names or neighbours say what the axes are.
    """

    axes: Axes | None
    weights: bool
    hidden: bool
    sure: bool


def layouts(leaves: Leaves) -> list[Found]:
    """What the tree says of each array."""
    paths = [tuple(name.lower().split("/")) for name in leaves.names]
    # An array of a module is of the class that this has, whatever the model's author calls the module.
    paths = [
        (*path[:-1], of, path[-1]) if NORM.fullmatch(of) or EMBEDDING.fullmatch(of) else path
        for path, of in zip(paths, _classes(leaves.treedef), strict=True)
    ]
    shapes = [np.shape(value) for value in leaves.values]
    stacks = _stacks(paths, shapes)
    attention = _attention(paths)
    beside: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        beside[path[:-1]].append(i)
    found = []
    for i, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        biases = [shapes[k] for k in beside[path[:-1]] if k != i and _is_bias(paths[k][-1])]
        bias = biases[0] if len(biases) == 1 else None
        found.append(_found(path, shape, bias, stacks[i], attention))
    return found


def _classes(treedef: Any, within: str = "") -> Iterator[str]:
    """The name of the class whose field each leaf is, in lower case; empty in a dict or a list."""
    if treedef.node_data() is None:
        yield within
    else:
        node = treedef.node_data()[0]
        for child in treedef.children():
            yield from _classes(child, "" if node.__module__ == "builtins" else node.__name__.lower())


def _attention(paths: Sequence[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """The modules that project queries and keys, apart or together."""
    inside: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths:
        for k, key in enumerate(path):
            if ATTENTION_IN.fullmatch(key):
                inside[path[:k]].add(key)
    return {module for module, keys in inside.items() if len(keys) > 1 or any(map(FUSED.fullmatch, keys))}


def _is_bias(name: str) -> bool:
    return name in ("bias", "b")


def _is_vector(path: Sequence[str]) -> bool:
    """Whether its names call it a bias or a scale: of what is not stacked it would have one axis."""
    if VECTOR.fullmatch(path[-1]):
        return True
    return path[-1] in ("weight", "w") and any(NORM.fullmatch(layer) for layer in path[-2:-1])


def _long(shape: Sequence[int]) -> int:
    """The number of axes, without those of length 1 at the end, which equinox has in biases of convolutions."""
    ndim = len(shape)
    while ndim and shape[ndim - 1] == 1:
        ndim -= 1
    return ndim


def _stacks(paths: Sequence[tuple[str, ...]], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """How many leading axes stack layers: those that all arrays of a module share, if its biases or scales have one too many.

    Where there are neither biases nor scales, the name of the module must say that it has layers.
    """
    below: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        for length in range(len(path)):
            below[path[:length]].append(i)
    stacks = [0] * len(paths)
    for prefix in sorted(below, key=len):  # the outermost first: what is stacked within it is counted from there
        at = below[prefix]
        while len(at) > 1 and _shares_an_axis(prefix, [paths[i] for i in at], [shapes[i][stacks[i] :] for i in at]):
            for i in at:
                stacks[i] += 1
    return stacks


def _shares_an_axis(prefix: Sequence[str], paths: Sequence[Sequence[str]], shapes: Sequence[tuple[int, ...]]) -> bool:
    if len({shape[:1] for shape in shapes}) > 1 or not shapes[0]:
        return False
    named = bool(prefix) and bool(LAYERS.fullmatch(prefix[-1]))
    if vectors := [shape for path, shape in zip(paths, shapes, strict=True) if _is_vector(path)]:
        others = [shape for path, shape in zip(paths, shapes, strict=True) if not _is_vector(path)]
        stacked = bool(others) and all(_long(shape) > 1 for shape in vectors)
        return stacked and (named or all(len(shape) > 2 for shape in others))
    return named and all(len(shape) > 2 for shape in shapes)


def _found(
    path: tuple[str, ...],
    shape: tuple[int, ...],
    bias: tuple[int, ...] | None,
    stacks: int,
    attention: set[tuple[str, ...]],
) -> Found:
    stack, own = shape[:stacks], shape[stacks:]
    layer = path[-2:][0]
    bias = bias[stacks : max(_long(bias), stacks + 1)] if bias is not None and bias[:stacks] == stack else None
    axes, sure = _axes(path, layer, own, bias)
    if axes is not None:
        inputs, outputs, stacked = (tuple([axis + stacks for axis in group]) for group in axes.groups)
        axes = Axes(inputs, outputs, (*range(stacks), *stacked), axes.split)
    inside = stacks > 0 or any(NUMBERED.fullmatch(key) for key in path[:-1])
    # The output of attention is called like the head of a model.
    head = not inside and any(HEAD.fullmatch(key) and path[:k] not in attention for k, key in enumerate(path))
    embeds = any(EMBEDDING.fullmatch(key) for key in path)
    short = all(length in (0, 1) for length in own)  # which symbolic lengths are not known to be
    weights = axes is not None and not _is_vector(path)
    return Found(axes, weights, weights and not (head or embeds or short), weights and sure)


def _axes(path: tuple[str, ...], layer: str, shape: tuple[int, ...], bias: tuple[int, ...] | None) -> tuple[Axes | None, bool]:
    """The axes of an array that is not stacked, or of one layer of a stack; and whether the tree tells them."""
    ndim = len(shape)
    if ndim < 2:
        return None, False
    first = _outputs_first(path[-1], shape, bias)
    if any(STACKED.fullmatch(key) for key in path) and ndim > 2:
        return _flat(ndim, ndim - 2, 1, first), True
    if ndim == 2:
        axes = _flat(2, 0, 1, first)
        rows, columns = (shape[axes.inputs[0]], shape[axes.outputs[0]])
        fused = any(FUSED.fullmatch(key) for key in (layer, path[-1])) and columns == 3 * rows
        return Axes(axes.inputs, axes.outputs, (), 3) if fused else axes, True
    if bias is not None and len(bias) < ndim and bias == (shape[: len(bias)] if first else shape[ndim - len(bias) :]):
        return _flat(ndim, 0, len(bias), first), True
    names, conv = (layer, path[-1]), bool(CONV.fullmatch(layer))
    if ndim == 3 and not conv:
        if any(ATTENTION_IN.fullmatch(key) for key in names):
            return Axes((0,), (1, 2)), True
        if any(ATTENTION_OUT.fullmatch(key) for key in names):
            return Axes((0, 1), (2,)), True
        return _flat(3, 1, 1, first), False
    return _flat(ndim, 0, 1, first), conv or path[-1] == "kernel"


def _outputs_first(name: str, shape: tuple[int, ...], bias: tuple[int, ...] | None) -> bool:
    """Whether the outputs are the first axes. A bias has their length; where that leaves it open, the name decides."""
    torch = bool(TORCH.fullmatch(name))
    if bias is None or len(bias) != 1:
        return torch
    at_the_ends = shape[0] == bias[0], shape[-1] == bias[0]
    return torch if at_the_ends[0] == at_the_ends[1] else at_the_ends[0]


@functools.cache
def _flat(ndim: int, stacked: int, outputs: int, first: bool) -> Axes:
    """Axes in the order stacked, inputs, outputs; or stacked, outputs, inputs."""
    cut = stacked + outputs if first else ndim - outputs
    one, other = tuple(range(stacked, cut)), tuple(range(cut, ndim))
    return Axes(other if first else one, one if first else other, tuple(range(stacked)))
