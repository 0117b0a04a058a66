"""Strict modes for the whole suite, eight devices, and the optimizers, which are found and not listed."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jax
import pytest

import jadam
import jadam._optimizers
from jadam import GradientTransformation

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def find_optimizers() -> dict[str, Callable[..., GradientTransformation]]:
    """Every public function of `jadam/_optimizers/` that takes a learning rate."""
    found = {}
    for module in pkgutil.iter_modules(jadam._optimizers.__path__, "jadam._optimizers."):
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            own = function.__module__ == module.name and not name.startswith("_")
            if own and "learning_rate" in inspect.signature(function).parameters:
                found[name] = function
    return found


OPTIMIZERS = find_optimizers()


COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


def compilations(run: Callable[[], object]) -> int:
    """How many programs JAX compiles while `run` runs."""
    before = len(COMPILED)
    run()
    return len(COMPILED) - before


def load_script(path: str) -> ModuleType:
    """A script of the project as a module."""
    file = Path(jadam.__file__).parent.parent / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=sorted(OPTIMIZERS))
def optimizer(request: pytest.FixtureRequest) -> Callable[..., GradientTransformation]:
    return OPTIMIZERS[request.param]


@pytest.fixture
def x64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def lenient() -> Iterator[None]:
    """JAX's default promotion, for other people's libraries, which are not written for the strict one."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
