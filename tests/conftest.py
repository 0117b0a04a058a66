"""Eight devices, programs that compile quickly, strict modes for the whole suite, and fixtures."""

import os
import platform
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest
from support import EACH, OPTIMIZERS

from jadam import GradientTransformation

# XLA's optimizations would be two thirds of the suite's time, for programs that run once. What it makes of a step is looked at
# where a test says so, by the fixture `optimized`; JAX_DISABLE_MOST_OPTIMIZATIONS=0 compiles all as users do.
QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
flags = ["--xla_force_host_platform_device_count=8"]
if QUICK:
    flags.append("--xla_cpu_parallel_codegen_split_count=1")
if QUICK and platform.machine() == "x86_64":  # before AVX2 a product and its sum are rounded twice, wherever they stand
    flags.append("--xla_cpu_max_isa=AVX")
if QUICK and jax.__version_info__ < (0, 12):  # later ones have no other emitters
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
jax.config.update("jax_disable_most_optimizations", QUICK)
MANY = 20
"""More slow combinations of one test are a grid, of which `.ci/run` has a third; `--every` runs all."""
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every", action="store_true", help="run every combination of slow tests, and not a third of many")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out slow tests, unless they are asked for by a mark or by name; by a mark, a third of many combinations is run."""
    if any("::" in argument for argument in config.args):
        return
    slow: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            slow.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = [item for own in slow.values() for item in own]
    if config.option.markexpr:  # another third in each test, so that each optimizer is in one of three tests
        grids = [] if config.option.every else [own for own in slow.values() if len(own) > MANY]
        left_out = [item for n, own in enumerate(grids) for k, item in enumerate(own) if (n + k) % 3]
    config.hook.pytest_deselected(items=left_out)
    gone = set(map(id, left_out))
    items[:] = [item for item in items if id(item) not in gone]


@pytest.fixture(params=EACH)
def optimizer(request: pytest.FixtureRequest) -> Callable[..., GradientTransformation]:
    return OPTIMIZERS[request.param]


@pytest.fixture(autouse=True)
def numbers_of_its_own(request: pytest.FixtureRequest) -> None:
    """A module's `RNG` starts anew with each test: its numbers do not depend on which tests the process ran before."""
    if hasattr(request.module, "RNG"):
        request.module.RNG = np.random.default_rng(0)


@pytest.fixture
def x64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def optimized() -> Iterator[None]:
    """Compiles as users do, where a test is of what XLA makes of a step."""
    if not QUICK:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # programs are not kept by how they were compiled
    yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def lenient() -> Iterator[None]:
    """JAX's default promotion, for other people's libraries, which are not written for the strict one."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
