"""Processes that are killed in the middle of steps and saves end with the same parameters, bit for bit."""

import multiprocessing
import os
import re
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import ROOT

import jadam

STEPS = 150
CLIPPED = jadam.chain(jadam.clip_by_global_norm(0.5), jadam.adamw(jadam.cosine_decay_schedule(1e-2, STEPS)))
TXS = {"adamw": CLIPPED, "in a window": jadam.accumulate(CLIPPED, 4)}


def recipe():
    """`save` and `load` of the page."""
    page = (ROOT / "docs" / "checkpoints.md").read_text()
    [block] = re.findall(r"^```\{code-cell\} ipython3\n(def save.*?)^```", page, re.MULTILINE | re.DOTALL)
    namespace = {"os": os, "np": np, "jnp": jnp, "jadam": jadam}
    exec(block, namespace)
    return namespace["save"], namespace["load"]


def train(name, path, events):
    """Goes on from the file, if there is one, and says when it begins a step or a save."""
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of what such a process does
    save, load = recipe()
    tx, params = TXS[name], {"w": jnp.ones((64, 16)), "b": jnp.zeros(16)}

    @jax.jit
    def step(x, state, params):
        grads = jax.grad(lambda p: jnp.mean((jnp.tanh(x @ p["w"] + p["b"]) - x[:, :16]) ** 2))(params)
        return tx.step(grads, state, params)

    begin, params, state = load(path, tx, params) if os.path.exists(path) else (0, params, tx.init(params))
    for n in range(begin, STEPS):
        events.send("step")
        data = np.random.default_rng(n).standard_normal((32, 64), np.float32)  # a function of the step
        params, state = step(data, state, params)
        jax.block_until_ready(params)
        events.send("save")
        save(path, n + 1, params, state)
    events.send("end")


def run(name, path, kill=None):
    """A process, which is killed after some events of a kind, and a moment; how it ended."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(name, path, theirs))
    process.start()
    theirs.close()
    if kill:
        kind, number, moment = kill
        while number:
            number -= ours.recv() == kind
        begun = time.monotonic()
        while kind == "save" and not os.path.exists(f"{path}.new") and time.monotonic() < begun + 0.1:
            pass  # a save takes a millisecond, which a busy machine would sleep through
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
    else:
        while ours.poll(60) and ours.recv() != "end":
            pass
    process.join(60)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize(("name", "times"), [("adamw", 20), ("in a window", 6)])
def test_killed_and_resumed(name, times, tmp_path):
    multiprocessing.get_context("forkserver").set_forkserver_preload(["jax", "jadam", "support"])
    whole, killed = str(tmp_path / "whole.npz"), str(tmp_path / "killed.npz")
    assert run(name, whole) == 0
    rng, torn = np.random.default_rng(0), 0
    for n in range(times):
        kill = ("step", "save")[n % 2], int(rng.integers(1, 7)), float(rng.uniform(0, (4e-3, 3e-4)[n % 2]))
        assert run(name, killed, kill) == -signal.SIGKILL
        torn += os.path.exists(f"{killed}.new")
    assert run(name, killed) == 0
    assert torn > 0  # some were killed in the middle of a save
    with np.load(whole) as one, np.load(killed) as other:
        assert set(one.files) == set(other.files)
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], strict=True)
