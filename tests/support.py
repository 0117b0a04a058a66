"""What several test files need: the optimizers, which are found and not listed, runs of them, and small tools on trees."""

import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jadam
import jadam._optimizers
from jadam import GradientTransformation
from jadam._storage.params import Kahan, Remainder
from jadam._storage.rounding import Noise, number_key, step_key

ROOT = Path(jadam.__file__).parent.parent
NAMESPACE = MappingProxyType({name: getattr(jadam, name) for name in jadam.__all__})
"""What `from jadam import *` brings."""


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
# In the plain suite these stand for all: of each kind of slots, norms, scalars and positions there is one.
EVERYDAY = {"adafactor", "adamw", "lamb", "lion", "muon", "prodigy", "schedule_free_adamw", "sgd"}
EACH = [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.slow) for name in sorted(OPTIMIZERS)]
"""All optimizers, as `pytest.mark.parametrize` takes them."""
# Of which a Pallas kernel can compute a leaf: as their rules declare it.
ELEMENTWISE_RULES = sorted(
    name for name, make in OPTIMIZERS.items() if all(at.part.rule.elementwise for at in make(1e-2).recipe.all if not at.inner)
)

COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


def counted(run: Callable[[], Any]) -> tuple[int, Any]:
    """How many programs JAX compiles while `run` runs, and what that returns."""
    before = len(COMPILED)
    result = run()
    return len(COMPILED) - before, result


def compilations(run: Callable[[], object]) -> int:
    return counted(run)[0]


def load_script(path: str) -> ModuleType:
    """A script of the project as a module; it finds the modules beside it, as when it is run."""
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(file.parent), *sys.path])
        spec.loader.exec_module(module)
    return module


def kernels(f, *args):
    """How many Pallas kernels a program has, those of all platforms together."""
    return str(jax.make_jaxpr(f)(*args)).count("pallas_call[")


# A wrapper of a user's own


@dataclass(frozen=True)
class EverySecond(jadam.Wrapper):
    """Runs the inside on the mean of two gradients."""

    how: Literal["cond", "loop", "select"] = "cond"

    def init(self, p):
        return {"first": jadam.zeros(p)}

    def scalars(self):
        return {"seen": 0.0}

    def around(self, inside):
        seen, first = inside.scalars["seen"], inside.slots["first"]
        mean = [(a + g) / 2 for a, g in zip(first, inside.updates, strict=True)]
        return inside.when(seen == 1, mean, self.how), {"first": inside.updates}, {"seen": (seen + 1) % 2}


# Runs


def run(tx, params, grads, by="step"):
    """The parameters and the state after a step for each tree in `grads`, by `tx.step` or by `tx.update`."""
    state = tx.init(params)
    for g in grads:
        if by == "step":
            params, state = tx.step(g, state, params)
        else:
            updates, state = tx.update(g, state, params)
            params = jadam.apply_updates(params, updates)
    return params, state


def scanned(tx, params, grads):
    """The same by `tx.step` in one scan, of gradients with the steps on a leading axis."""
    return jax.lax.scan(lambda carry, g: (tx.step(g, carry[1], carry[0]), None), (params, tx.init(params)), grads)[0]


def distance(found, expected, start):
    """The largest difference of two trees of parameters or paths, leaf by leaf as a share of how far `expected` went."""
    apart, moved = (jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), tree, expected) for tree in (found, start))
    assert np.max(jax.tree.leaves(moved)) > 1e-6
    return np.max(jax.tree.leaves(jax.tree.map(lambda a, m: a and a / m, apart, moved)))


# Trees


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def at(tree, index):
    """Every leaf at an index of its leading axes: the tree of a step, or of a model."""
    return jax.tree.map(lambda x: x[index], tree)


def wide(tree):
    """Leaves as float64 of numpy."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def is_finite(tree):
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))


def dtypes(tree):
    return {x.dtype.name for x in jax.tree.leaves(tree)}


def slot_bytes(tx, params):
    return sum(x.nbytes for x in jax.tree.leaves(tx.init(params).slots))


def assert_differ(one, other):
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(one, other)


def assert_equal_but_for_rounding(ours, theirs):
    """A compiler may round a product and its sum once or twice: float32 to some ulp; seldom, what is stored by one unit."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        integer, wide = jnp.issubdtype(a.dtype, jnp.integer), a.dtype == jnp.float32
        a, b = (np.asarray(x).astype(np.float64) for x in (a, b))
        unit = 1 if integer else 3e-6 if wide else 2.0**-7
        assert wide or (a != b).sum() <= max(1, 0.01 * a.size)
        np.testing.assert_allclose(a, b, rtol=unit, atol=unit if integer else unit * np.abs(b).max())


def master(p, beside):
    """The parameter of 16 bits as the rules see it, from what is kept beside it, a dictionary.

    Call it outside the steps' program, in which XLA may skip the rounding of `p`.
    """
    storage = Remainder() if "remainder" in beside else Kahan() if beside else None
    return p.astype(jnp.float32) if storage is None else storage.decode(p, beside)


# Chance and devices


def spread(*shape, seed=0, width=2.0):
    """Normal numbers times e^(width z): a block of 8 bits has to hold all of them."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp(width * rng.standard_normal(shape))).astype(np.float32)


def noise(step=0, leaf=0, slot="adam/mu"):
    return Noise(step_key(jnp.asarray(step, jnp.int32)) ^ jnp.asarray(number_key(leaf)), slot)


def eight_devices(kind):
    """A mesh of 4 by 2."""
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
