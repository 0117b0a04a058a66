"""Arrays as every file format can hold them: plain numpy arrays, the dtypes that numpy has not told in their names."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._errors import BadType, BadValue, shown
from jadam._state import numbered
from jadam._tree import PyTree, flatten, is_array, quoted

FORMAT, CHECKSUM = "format", "checksum"
VERSION = 1
IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")


def by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, numbered where two are alike: `{"a/b": x, "a": {"b": y}}`."""
    leaves, found = flatten(tree), {}
    for name, leaf in zip(leaves.names, leaves.values, strict=True):
        found[next(free for free in numbered(name) if free not in found)] = leaf
    return found


def write(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What `read` reads: arrays of numpy's own dtypes, a version, and a checksum of each."""
    stored = {FORMAT: np.asarray(VERSION, np.int32)} | dict(_plain(name, x) for name, x in arrays.items())
    return stored | {CHECKSUM: _checksums(stored)}


def read(stored: Mapping[str, Any], needed: Callable[[], Iterable[str]] = tuple) -> dict[str, Any]:
    """The arrays that were written, if nothing of them has changed; of missing ones `needed` says what they are."""
    if not isinstance(stored, Mapping) or not all(isinstance(name, str) for name in stored):
        raise BadType(f"{shown(stored)} is not a dict of arrays by name; pass what to_dict returned, read from its file.")
    if missing := [name for name in (FORMAT, CHECKSUM) if name not in stored]:
        raise BadValue(f"{missing[0]!r} is missing: this is not what to_dict returned, or not all of it.")
    found = {name: _as_numpy(name, x) for name, x in stored.items()}
    checksums, version = found.pop(CHECKSUM), found[FORMAT]
    if version.shape == () and version.dtype.kind in "iu" and version > VERSION:
        raise BadValue(f"this is format {version}, and this version of jadam reads {VERSION}; update jadam.")
    if checksums.shape != (len(found),):
        known = {_base_and_mark(name)[0] for name in found}
        raise BadValue(_too_many_or_few(found, checksums, [name for name in needed() if name not in known]))
    wrong = np.flatnonzero(checksums != _checksums(found))
    if wrong.size:
        names = sorted(found)
        raise BadValue(
            f"{_first([names[i] for i in wrong])} is not what was saved, by its checksum: the file was damaged or edited. Take "
            "an older one; to change a hyperparameter, load the state and call tx.set_hyperparams."
        )
    return dict(_full(name, x) for name, x in found.items() if name != FORMAT)


def _plain(name: str, x: Any) -> tuple[str, np.ndarray]:
    """An array in a dtype that numpy itself has, since `numpy.save` writes bfloat16 as bytes without a name."""
    if isinstance(x, Tracer):
        raise BadType(f"{name!r} is traced; call to_dict outside of jit.")
    if not isinstance(x, Array | np.ndarray | np.generic | int | float | complex) or (isinstance(x, int) and not is_array(x)):
        raise BadType(f"{quoted(name)} is {shown(x)}, which is not an array.")
    x = x if isinstance(x, Array | np.ndarray) else jnp.asarray(x)
    marked = f"{name}:{x.dtype}"
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return marked, _on_host(jax.random.key_data(x))
    x = _on_host(x)
    if x.dtype.kind == "c":
        return marked, np.stack([x.real, x.imag], axis=-1)
    if x.dtype.isbuiltin != 1:
        return marked, x.view(f"u{x.dtype.itemsize}")
    return (marked if _mark(name) else name), x


def _full(name: str, x: np.ndarray) -> tuple[str, Any]:
    """The inverse of `_plain`."""
    base, mark = _base_and_mark(name)
    if mark.startswith("key<"):
        return base, jax.random.wrap_key_data(jnp.asarray(x), impl=_implementation(mark))
    dtype = jnp.dtype(mark or x.dtype)
    return base, (x.view(dtype)[..., 0] if dtype.kind == "c" else x.view(dtype))


def _base_and_mark(name: str) -> tuple[str, str]:
    mark = _mark(name)
    return name.removesuffix(f":{mark}"), mark


def _mark(name: str) -> str:
    """The dtype at the end of a name, if there is one."""
    _, colon, mark = name.rpartition(":")
    try:
        is_mark = bool(colon) and (re.fullmatch(r"key<\w+>", mark) or jnp.dtype(mark).name == mark)
    except TypeError:  # such as that of `kernel:0`
        return ""
    return mark if is_mark else ""


def _implementation(mark: str) -> str:
    known = (name for name in IMPLEMENTATIONS if str(jax.eval_shape(lambda: jax.random.key(0, impl=name)).dtype) == mark)  # noqa: B023
    if (found := next(known, None)) is None:
        raise BadValue(f"{mark!r} is a kind of random key that JAX does not have.")
    return found


def _on_host(x: Array | np.ndarray) -> np.ndarray:
    """The whole array, of which this process may have only a part: then all processes call this together."""
    if isinstance(x, Array) and not x.is_fully_addressable:
        from jax.experimental.multihost_utils import process_allgather  # imports what few need

        return np.asarray(process_allgather(x, tiled=True))
    return np.array(x)  # a copy: the state may be donated to the next step


def _as_numpy(name: str, x: Any) -> np.ndarray:
    if not isinstance(x, Array | np.ndarray | np.generic) or isinstance(x, Tracer):
        raise BadType(f"{name!r} is {shown(x)}, which is not an array.")
    return np.asarray(x)


def _too_many_or_few(found: Mapping[str, np.ndarray], checksums: np.ndarray, missing: Sequence[str]) -> str:
    """What is wrong where there are not as many checksums as arrays. They are of their names too."""
    wrong = [name for name, x in found.items() if _checksums({name: x}) not in checksums]
    there = f"there are {len(found)} arrays, and {checksums.size} checksums: "
    if len(found) > checksums.size and wrong:
        return f"{there}{_first(wrong)} is not of this state; pass what to_dict returned, and nothing else."
    return there + (f"some are missing: {_first(missing)}." if missing else "some are missing or too many.")


def _first(names: Sequence[str]) -> str:
    return f"{names[0]!r}{f' (and {len(names) - 1} more)' if len(names) > 1 else ''}"


def _checksums(stored: Mapping[str, np.ndarray]) -> np.ndarray:
    """A CRC-32 of each array with its name, dtype and shape, in the order of names.

    It finds every flip of up to 32 bits in a row, and other damage but for one in 4e9.
    """

    def checksum(name: str, x: np.ndarray) -> int:
        head = zlib.crc32(f"{name} {x.dtype.str} {x.shape}".encode())
        return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data, head)

    return np.asarray([checksum(name, stored[name]) for name in sorted(stored)], np.uint32)
