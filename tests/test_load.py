"""Long runs, many optimizers, large trees: memory stays, and time grows with what there is to do and not with its square."""

import gc
import itertools
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from support import ROOT

import jadam

MEMORY = """
import ctypes, gc, os, sys
import jax, jax.numpy as jnp, numpy as np
import jadam, optax

def resident():
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is freed and not yet given back is no leak
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def tree(columns):
    return {{"w": jax.device_put(np.ones((8, columns), np.float32)), "b": jax.device_put(np.ones(columns, np.float32))}}

def use(tx, params, update=None):
    jax.block_until_ready((update or tx.update)(params, tx.init(params), params))

params = tree(8)
{setup}
for i in range(10):
    once(i)
before = resident()
for i in range(10, 10 + {times}):
    once(i)
print(resident() - before)
"""
EAGER = """
tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3))
state = tx.init(params)
def once(i):
    global params, state
    for _ in range(100):
        updates, state = tx.update(params, state, params)
        params = jadam.apply_updates(params, updates)
"""
REBUILT = {
    "rates": "jadam.adamw(1e-3 / (1 + i))",
    "schedules": "jadam.adamw(lambda count: 1e-3 / (1 + i + count))",
    "masks": "jadam.adamw(1e-3, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1 or i < 0, p))",
}


def growth(setup, times):
    """Resident memory, in MB, that a process of its own has more after `once` has run so often."""
    script = MEMORY.format(setup=setup, times=times)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


pytestmark = pytest.mark.slow
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")


@linux
def test_20_000_eager_steps_keep_nothing():
    assert growth(EAGER, 200) <= 20


@linux
@pytest.mark.parametrize("kind", REBUILT)
def test_500_rebuilt_optimizers_keep_nothing(kind):
    assert growth(f"def once(i): use({REBUILT[kind]}, params)", 500) <= 20


@linux
def test_programs_of_rebuilt_optimizers_are_freed():
    """Each `jax.jit(tx.update)` of another number once kept 2.7 MB."""
    setup = "def once(i):\n    tx = jadam.adamw(1e-3 / (1 + i))\n    use(tx, params, jax.jit(tx.update))"
    assert growth(setup, 60) <= 20


@linux
@pytest.mark.parametrize("other", ["tree(8 + i)", "{str(i): params}"], ids=["shapes", "keys"])
def test_programs_of_other_trees_are_freed(other):
    """Each once kept 2.9 MB, and one of other shapes 1.5 MB for zeros, which JAX keeps if they are made outside of a program.

    What stays are JAX's traces of its own functions, 0.3 MB for a tree of other shapes and 0.03 of other keys, until
    `jax.clear_caches()`. What is resident sways by 30 MB where a process compiles.
    """
    assert growth(f"def once(i): use(jadam.adamw(1e-3), {other})", 60) <= 60


def layers(count, dtype="float32"):
    x = jnp.ones(2, dtype)
    return {"layers": [{"kernel": x, "bias": x} for _ in range(count // 2)]}


def by_layer(groups):
    pairs = [(jadam.match(f"layers/*{number:02d}/*"), jadam.adamw(1e-3 / (1 + number))) for number in range(groups)]
    return jadam.partition([*pairs, (True, jadam.sgd(0.1))])


def refused(call, *args):
    with pytest.raises((ValueError, TypeError)):
        call(*args)


def broken(params, **last):
    return {"layers": [*params["layers"][:-1], {**params["layers"][-1], **last}]}


ASKED = {
    "init": lambda tx, params, state: tx.init(params),
    "trace": lambda tx, params, state: jax.jit(lambda g, s, p: tx.update(g, s, p)).trace(params, state, params),
    "describe": lambda tx, params, state: jadam.describe(tx, params),
    "check_precision": lambda tx, params, state: jadam.check_precision(tx, params),
    "state_shardings": lambda tx, params, state: jadam.state_shardings(tx, params),
    "hyperparams": lambda tx, params, state: jadam.hyperparams(state),
    "set_hyperparams": lambda tx, params, state: tx.set_hyperparams(state, **dict(list(jadam.hyperparams(state).items())[:1])),
    "a leaf is missing": lambda tx, params, state: refused(tx.update, {"layers": params["layers"][:-1]}, state, params),
    "a leaf too much": lambda tx, params, state: refused(tx.update, broken(params, more=jnp.ones(2)), state, params),
    "a wrong shape": lambda tx, params, state: refused(tx.update, broken(params, bias=jnp.ones(3)), state, params),
    "no array": lambda tx, params, state: refused(tx.init, broken(params, bias=object())),
    "another state": lambda tx, params, state: refused(tx.update, *2 * [params], {"layers": params["layers"][:-1]}),
    "a wrong mask": lambda tx, params, state: refused(jadam.masked(tx, {"layers": [True]}).init, params),
    "a pattern of nothing": lambda tx, params, state: refused(jadam.masked(tx, jadam.match("layers/x")).init, params),
    "updates of another tree": lambda tx, params, state: refused(jadam.apply_updates, params, {"layers": params["layers"][1:]}),
}


def seconds(what, tx, params):
    """Of the processor, without the pauses in which Python looks for garbage, which grow with all that there is."""
    state = tx.init(params)
    gc.collect()
    gc.disable()
    try:
        begin = time.process_time()
        ASKED[what](tx, params, state)
        return time.process_time() - begin
    finally:
        gc.enable()


number = itertools.count()


def build(groups):
    """One that was not there before, so that nothing of it is found in a cache."""
    clip = jadam.clip_by_global_norm(1.0, eps=1e-9 * next(number))
    return jadam.chain(clip, by_layer(groups) if groups else jadam.adamw(1e-3))


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("groups", [0, 100])
def test_time_is_linear_in_the_leaves(what, groups):
    """Ten times as many leaves: some 10 times as long, where the square would be 100 times."""
    seconds(what, build(groups), layers(250))  # what is done once in a process
    few, many = (min(seconds(what, build(groups), layers(count)) for _ in range(2)) for count in (250, 2_500))
    assert many < 15 * max(few, 0.02)
