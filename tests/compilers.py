"""What a program costs on an H100 or a TPU, told by their own compilers: no device is needed.

XLA compiles for a described device (`jax.experimental.topologies`). The compiled program says how many bytes move between
memory and chip, how many kernels run, and how much temporary memory they need; it is the same on every run.

The compilers come with `pip install -e '.[test,accelerators]'` (2 GB, Linux), and need `JAX_PLATFORMS=cpu`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

# libtpu reads these when it is loaded. Without them it asks the network which TPU it is on.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # a chip is for one process; compilers are for as many as there are
COMPILERS = ("libtpu", "jax_cuda12_plugin", "nvidia")
MISSING = [name for name in COMPILERS if importlib.util.find_spec(name) is None]
if not MISSING:
    cuda = Path(next(iter(importlib.import_module("nvidia").__path__))) / "cuda_nvcc"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --xla_gpu_cuda_data_dir={cuda}"
    os.environ["PATH"] = f"{cuda}/bin:{os.environ['PATH']}"

H100 = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
TARGETS = {
    "h100": {"platform": "cuda", "topology_name": "h100", "target_config": H100, "topology": "1x1x1"},
    "8 h100": {"platform": "cuda", "topology_name": "h100", "target_config": H100, "topology": "1x1x8"},
    "v5e": {"platform": "tpu", "topology_name": "v5e:2x2"},
    "v5p": {"platform": "tpu", "topology_name": "v5p:2x2x1"},
    "v6e": {"platform": "tpu", "topology_name": "v6e:2x2"},
    "256 v5e": {"platform": "tpu", "topology_name": "v5e:16x16"},
    "256 v5p": {"platform": "tpu", "topology_name": "v5p:8x8x4"},
}
# The flag that `conftest.py` sets against it holds for a process.
AS_USERS_DO = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 12) else None


@functools.cache
def devices(target: str) -> list[Any]:
    """Those of a described machine."""
    return list(topologies.get_topology_desc(**TARGETS[target]).devices)


def place(target: str) -> SingleDeviceSharding:
    """On one device of a described machine, or on this CPU."""
    return SingleDeviceSharding((jax.devices("cpu") if target == "cpu" else devices(target))[0])


@dataclass
class Cost:
    """Of one run of a compiled program.

    Attributes:
        moved: bytes between memory and chip: of every kernel its arrays in and out; of a conditional its cheapest branch.
        temporary: bytes of memory beside arguments and results.
        kernels: how many run.
        conditionals: branches that depend on data.
        fusions: in the whole program, whether they run or not: what is compiled.
    """

    moved: int
    temporary: int
    kernels: int
    conditionals: int
    fusions: int


def cost(target: str, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (), passes: int = 1) -> Cost:
    """What `function` costs on a target, where loops make so many passes.

    `args` are trees of arrays or of `jax.ShapeDtypeStruct`.
    """
    return cost_of(compiled(target, function, *args, donate=donate), passes)


def compiled(target: str, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Any:
    """`function` as it is compiled for a target."""
    there = place(target)
    args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), args)
    with _as_if_on(there):
        return jax.jit(function, donate_argnums=donate).lower(*args).compile(AS_USERS_DO if target == "cpu" else None)


def cost_of(program: Any, passes: int = 1, rows: tuple[int, int] | None = None) -> Cost:
    """What a compiled program costs. Of an array with as many rows as the first of `rows`, kernels move the second."""
    text = program.as_text()
    counted = text if rows is None else re.sub(rf"\[{rows[0]}(?=[,\]])", f"[{rows[1]}", text)
    moved, kernels, conditionals = _run(*_computations(counted), passes)
    return Cost(moved, program.memory_analysis().temp_size_in_bytes, kernels, conditionals, text.count(" fusion("))


def _as_if_on(there: SingleDeviceSharding) -> contextlib.AbstractContextManager[Any]:
    """Pallas asks on which TPU it runs, to compute a sign."""
    [device] = there.device_set
    if device.platform != "tpu":
        return contextlib.nullcontext()
    from jax.sharding import AbstractDevice, AbstractMesh  # the oldest JAX that we support has only one of them

    described = AbstractDevice(device.device_kind, device.num_cores, device.platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=described))


class _Operation(NamedTuple):
    """A line of HLO: `name = kind code(operands), attributes`."""

    name: str
    code: str
    kind: str
    operands: list[str]
    attributes: str


SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8, "s64": 8}
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "iota", "opt-barrier", "partition-id"}
ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")


def _arrays(kind: str) -> list[int]:
    """Bytes in memory of the arrays of a type; what is on the chip, `S(1)`, is none."""
    found = [(SIZES[dtype], shape, layout) for dtype, shape, layout in ARRAY.findall(kind) if dtype in SIZES]
    return [0 if "S(1)" in layout else size * math.prod(int(n) for n in shape.split(",") if n) for size, shape, layout in found]


def _bytes(kind: str) -> int:
    return sum(_arrays(kind))


def _computations(text: str) -> tuple[dict[str, list[_Operation]], str]:
    """The operations of each computation of an HLO module, and the name of the first that runs."""
    found: dict[str, list[_Operation]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if head := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            current = head[2]
            found[current] = []
            entry = current if head[1] else entry
        elif one := re.match(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line):
            rest = one[2]
            at = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
            if code := re.match(r"\s*([\w\-]+)(\(.*)", rest[at:]):
                end = _closing(code[2])
                operands = re.findall(r"%([\w.\-]+)", code[2][:end])
                found[current].append(_Operation(one[1], code[1], rest[:at], operands, code[2][end:]))
    return found, entry


def _closing(text: str) -> int:
    """Where the bracket closes with which a text begins."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return i
    return len(text)


def _run(parts: dict[str, list[_Operation]], name: str, passes: int) -> tuple[int, int, int]:
    """Bytes moved, kernels and conditionals of a computation, in which loops make so many passes."""
    kinds = {one.name: one.kind for one in parts[name]}
    total = [0, 0, 0]

    def add(*counts: int) -> None:
        total[:] = [a + b for a, b in zip(total, counts, strict=True)]

    for one in parts[name]:
        if one.code in FREE or one.code.endswith("-done"):
            continue
        called = re.findall(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.\-]+)", one.attributes)
        if one.code == "conditional":
            several = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
            branches = [branch.strip().lstrip("%") for branch in several[1].split(",")] if several else called
            add(*min(_run(parts, branch, passes) for branch in branches))
            add(0, 0, 1)
        elif one.code in ("while", "call"):
            add(*(count * (passes if one.code == "while" else 1) for count in _run(parts, called[0], passes)))
        elif one.code == "custom-call" and re.search("AllocateBuffer|ConcatBitcast|annotate|Sharding", one.attributes):
            continue
        elif one.code == "slice-start":  # of `((from), into, ...)`: a part is read
            into = ARRAY.findall(one.kind)[1:2]
            add(sum(_bytes(f"{dtype}[{shape}]") + _bytes(f"{dtype}[{shape}]{layout}") for dtype, shape, layout in into), 0, 0)
        elif one.code.endswith("-start"):  # a copy beside what else runs, of `(into, from, ...)`
            source = sum(_bytes(kinds.get(operand, "")) for operand in dict.fromkeys(one.operands))
            add(source + sum(_arrays(one.kind)[:1]), 0, 0)
        else:
            read = sum(_bytes(kinds.get(operand, "")) for operand in dict.fromkeys(one.operands))
            add(read + _bytes(one.kind), 1, 0)
    return total[0], total[1], total[2]


# What devices send each other

SENT = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def sent(program: Any) -> dict[str, tuple[int, int]]:
    """The collectives of a compiled program: of each kind how many, and the bytes of their results on a device.

    The results of a collective that runs beside others, `-start`, are `(from, into)` on GPU and `((from), into)` on TPU, and
    what an all-reduce starts is what it results in.
    """
    found: dict[str, tuple[int, int]] = {}
    for line in program.as_text().splitlines():
        if one := SENT.search(line):
            kind, what = one[1], one[2]
            arrays = [_bytes(f"{dtype}[{shape}]") for dtype, shape, _ in ARRAY.findall(kind) if dtype in SIZES]
            if "-start(" in line and what != "all-reduce" and kind.startswith("("):
                arrays = arrays[1:2] if what == "collective-permute" else arrays[len(arrays) // 2 :]
            count, size = found.get(what, (0, 0))
            found[what] = count + 1, size + sum(arrays)
    return found
