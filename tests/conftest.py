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
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out slow tests, unless they are asked for by a mark or by name."""
    if not config.option.markexpr and not any("::" in argument for argument in config.args):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


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
