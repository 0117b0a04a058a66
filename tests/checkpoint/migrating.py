"""Runs that go on under another transformation."""

import jax
import jax.numpy as jnp
from support import run

import jadam

PARAMS = {"a": jnp.linspace(-1.0, 1.0, 128).reshape(64, 2), "b": jnp.ones(3)}
LOW = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
RATE = 1e-2


def go_on(tx, state, params, steps=3):
    grads = jax.tree.map(lambda p: (jnp.square(p) - 0.3).astype(p.dtype), params)
    return run_from(tx, state, params, [grads] * steps)


def run_from(tx, state, params, grads):
    for g in grads:
        params, state = tx.step(g, state, params)
    return params, state


def begun(tx, params=PARAMS, steps=5):
    return run(tx, params, [jax.tree.map(lambda p: (jnp.square(p) - 0.3).astype(p.dtype), params)] * steps)


def listed(report):
    return set(report.kept) | set(report.new) | set(report.dropped)


def assert_nothing_is_silent(report, old, new):
    """Each array of the old state is kept or dropped, each of the new one kept or new."""

    def names(state):
        return {name for name in jadam.to_dict(state) if name not in ("format", "checksum") and not name.startswith("given/")}

    old, new = ({name.rpartition(":")[0] or name for name in names(state)} for state in (old, new))
    assert new == set(report.kept) | set(report.new)
    assert not set(report.kept) & set(report.new)
    sources = {name: remark.split(";")[0] for name, remark in report.kept.items()}
    sources = {name: was.removeprefix("was ") if was.startswith("was ") else name for name, was in sources.items()}
    kept = {was if was in old else "/".join([was, *name.split("/")[3:]]) for name, was in sources.items()}
    assert kept <= old
    lost = old - kept - set(report.dropped)
    assert not [name for name in lost if ".scales/" not in name]  # these go with their slots
    assert all(f"{name.split('/')[0]}" in str(report) for name in listed(report))


ADAM = jadam.adam(RATE)
COSINE = jadam.cosine_decay_schedule(RATE, 20)


def with_precision(tx, state):
    return jadam.with_precision(tx, state, min_size=0, rounding="nearest")
