"""Faults of a run: what optax does, what jadam does, and what is left in the state. The table is docs/reliability.md."""

import io
import re
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from support import ROOT, eight_devices, is_finite, run

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones(3)}
GRADS = jax.tree.map(lambda p: 0.1 + p, PARAMS)
CLIP = 1.0

pytestmark = pytest.mark.usefixtures("lenient")  # of optax, which promotes


def spoiled(value, dtype="float32"):
    """A gradient with such a number in one element of one leaf."""
    return GRADS | {"b": GRADS["b"].at[1].set(value)} if dtype == "float32" else GRADS


def optax_run(tx, grads, params=PARAMS):
    state, update = tx.init(params), jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def clipped(library):
    return library.chain(library.clip_by_global_norm(CLIP), library.adamw(1e-2))


def test_a_nan_in_a_micro_batch():
    batches = [GRADS, spoiled(jnp.nan), GRADS, GRADS] * 2
    params, _ = optax_run(optax.MultiSteps(optax.adamw(1e-2), 4), batches)
    assert not is_finite(params)  # the whole window is lost, and every one after it
    params, state = run(jadam.accumulate(jadam.adamw(1e-2), 4), PARAMS, batches)
    expected, inner = run(jadam.adamw(1e-2), PARAMS, [GRADS] * 2)  # the mean of the other three
    chex.assert_trees_all_close(params, expected, rtol=1e-6)
    assert is_finite(state)
    assert state.slots["adam"].keys() == inner.slots["adam"].keys()


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_leaf_that_is_not_finite(value):
    params, _ = optax_run(clipped(optax), [spoiled(value), GRADS])
    assert not is_finite(params["b"])
    assert is_finite(params["w"]) == bool(jnp.isinf(value))  # the norm carries a NaN to every leaf
    tx = jadam.guard(clipped(jadam))
    params, state = run(tx, PARAMS, [GRADS])
    after, kept = tx.step(spoiled(value), state, params)
    chex.assert_trees_all_equal(after, params)
    chex.assert_trees_all_equal((kept.count, kept.slots), (state.count, state.slots))
    expected, _ = run(clipped(jadam), PARAMS, [GRADS] * 2)
    chex.assert_trees_all_close(tx.step(GRADS, kept, after)[0], expected, rtol=1e-6)


def test_a_gradient_of_1e20():
    """Of optax the second moment is inf: the element never moves again."""
    grads = [spoiled(1e20)] + [GRADS] * 20
    params, state = optax_run(optax.adamw(1e-2), grads)
    assert not is_finite(state)
    later, _ = optax_run(optax.adamw(1e-2), grads + [GRADS] * 20)
    assert abs(float(later["b"][1] - params["b"][1] * (1 - 1e-6) ** 20)) < 1e-6
    params, state = run(jadam.adamw(1e-2), PARAMS, grads)
    assert is_finite((params, state))
    params, _ = run(clipped(jadam), PARAMS, grads)  # a clip makes it one gradient among others
    clean, _ = run(clipped(jadam), PARAMS, [GRADS] * 21)
    moved = (PARAMS["b"] - params["b"])[1] / (PARAMS["b"] - clean["b"])[1]
    assert 0.3 < moved < 3


def test_a_spike():
    """A gradient a thousand times as long as those before. A clip makes it short, and leaves it in the moments."""
    rng = np.random.default_rng(0)
    usual = [jax.tree.map(lambda g: g * jnp.float32(rng.uniform(0.9, 1.1)), GRADS) for _ in range(100)]
    spike = jax.tree.map(lambda g: -1e3 * g, GRADS)
    base = optax.apply_if_finite(optax.adamw(1e-2), 5)
    quiet, _ = optax_run(base, [*usual, GRADS])
    shaken, _ = optax_run(base, [*usual, spike, GRADS])
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), quiet, shaken))) > 5e-3

    tx = jadam.guard(jadam.adamw(1e-2))
    params, state = run(tx, PARAMS, usual)
    after, kept = jax.jit(tx.step)(spike, state, params)
    chex.assert_trees_all_equal((after, kept.count, kept.slots), (params, state.count, state.slots))
    assert jadam.metrics(kept)["guard.skipped"] == 1


def test_a_float16_gradient_that_overflows():
    params = {"w": jnp.ones(4, jnp.float16)}
    grads = {"w": jnp.full(4, 6e4, jnp.float16) * 2}
    assert not is_finite(grads)
    after, state = optax_run(optax.adam(1e-3), [grads], params)
    assert not is_finite((after, state))
    tx = jadam.loss_scale(jadam.adam(1e-3))
    state = tx.init(params)
    after, kept = tx.step(grads, state, params)
    chex.assert_trees_all_equal(after, params)
    assert jadam.current_loss_scale(kept) == jadam.current_loss_scale(state) / 2
    chex.assert_trees_all_equal(kept.slots, state.slots)


def test_all_gradients_zero_for_1000_steps():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    for tx in (jadam.adamw(1e-2, weight_decay=0.0), optax.adamw(1e-2, weight_decay=0.0)):
        step = jax.jit(lambda g, s, p, tx=tx: tx.update(g, s, p))

        def many(state, step=step):
            return jax.lax.scan(lambda s, _: (step(zero, s, PARAMS)[1], None), state, length=1000)[0]

        state = many(tx.init(PARAMS))
        updates, state = step(GRADS, state, PARAMS)
        assert is_finite((updates, state))
        # Both corrections have come to 1: the first steps after it are (1-b1)/sqrt(1-b2) = 3.2 rates long, as in the paper.
        assert max(float(jnp.abs(u).max()) for u in jax.tree.leaves(updates)) < 3.2e-2


def test_an_empty_tree():
    for tx in (clipped(jadam), clipped(optax)):
        updates, state = tx.update({}, tx.init({}), {})
        assert updates == {}
        assert is_finite(state)


def test_a_gradient_of_another_shape():
    """A bias of shape (3,) where the parameter has (1, 3): optax broadcasts."""
    params, grads = {"b": jnp.ones((3, 1))}, {"b": jnp.ones(3)}
    tx = optax.adam(1e-3)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["b"].shape == (3, 3)
    own = jadam.adam(1e-3)
    with pytest.raises(ValueError, match=re.escape("adam.update: the gradient at b has shape (3,), its parameter (3, 1).")):
        own.update(grads, own.init(params), params)


def test_gradients_of_another_structure():
    tx, own = optax.adam(1e-3), jadam.adam(1e-3)
    with pytest.raises(ValueError, match=r"(?i)structure|keys"):
        tx.update({"w": GRADS["w"]}, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"adam.update: .*\bb\b"):
        own.update({"w": GRADS["w"]}, own.init(PARAMS), PARAMS)


def test_swapped_arguments():
    tx, own = optax.adam(1e-3), jadam.adam(1e-3)
    with pytest.raises(AttributeError, match="has no attribute"):
        tx.update(GRADS, PARAMS, tx.init(PARAMS))
    with pytest.raises((TypeError, ValueError), match=r"adam.update: .*state"):
        own.update(GRADS, PARAMS, own.init(PARAMS))


def test_a_leaf_of_integers():
    """A counter among the parameters: optax makes an update of it, by which `apply_updates` of integers is lost or wrong."""
    params, grads = PARAMS | {"seen": jnp.asarray(3)}, GRADS | {"seen": jnp.asarray(0)}
    own = jadam.adam(1e-3)
    updates, state = own.update(grads, own.init(params), params)
    assert jadam.apply_updates(params, updates)["seen"] == 3
    assert state.slots["adam"]["mu"]["seen"] is None
    assert optax.adam(1e-3).init(params)[0].mu["seen"].dtype == jnp.int32


def test_a_state_of_other_parameters():
    """A checkpoint of a narrower model: where shapes broadcast, optax trains on with its moments."""
    narrow = {"w": jnp.ones((1, 3))}
    wide, grads = {"w": jnp.ones((4, 3))}, {"w": jnp.ones((4, 3))}
    tx, own = optax.adam(1e-3), jadam.adam(1e-3)
    updates, _ = tx.update(grads, tx.init(narrow), wide)
    assert updates["w"].shape == (4, 3)
    with pytest.raises(ValueError, match=r"adam\.update: the state does not fit the parameter at w"):
        own.update(grads, own.init(narrow), wide)


def npz(arrays):
    np.savez(file := io.BytesIO(), **arrays)
    return file.getvalue()


def test_a_truncated_checkpoint():
    tx = jadam.adamw(1e-2)
    _, state = run(tx, PARAMS, [GRADS])
    whole = npz(jadam.to_dict(state))
    for length in np.linspace(0, len(whole) - 1, 20, dtype=int):
        with pytest.raises((ValueError, OSError, EOFError, zipfile.BadZipFile)):
            jadam.from_dict(tx, PARAMS, np.load(io.BytesIO(whole[:length]), allow_pickle=False))
    missing = jadam.to_dict(state)
    del missing["slots/adam/nu/b"]
    with pytest.raises(ValueError, match="some are missing: 'slots/adam/nu/b'"):
        jadam.from_dict(tx, PARAMS, missing)


def test_flipped_bits():
    """In flax's msgpack, which has no checksum: optax trains on with whatever it reads."""
    tx, own = optax.adamw(1e-2), jadam.adamw(1e-2)
    (_, theirs), (_, ours) = optax_run(tx, [GRADS]), run(own, PARAMS, [GRADS])
    for nu in (theirs[0].nu["w"], jadam.to_dict(ours)["slots/adam/nu/w"]):
        whole = serialization.to_bytes(theirs if nu is theirs[0].nu["w"] else jadam.to_dict(ours))
        damaged = bytearray(whole)
        damaged[whole.index(np.asarray(nu).tobytes()) + 3] ^= 0x40
        if nu is theirs[0].nu["w"]:
            read = serialization.from_bytes(theirs, bytes(damaged))
            assert float(jnp.max(read[0].nu["w"])) > 1e20 or not is_finite(read)
        else:
            with pytest.raises(ValueError, match="slots/adam/nu/w"):
                jadam.from_dict(own, PARAMS, serialization.msgpack_restore(bytes(damaged)))


def test_a_chain_that_changed_before_it_resumes():
    """A clip is added. Of optax's state the leaves have the same number and shapes if the chain is built in another order."""
    before, after = optax.chain(optax.trace(0.9), optax.trace(0.5)), optax.chain(optax.trace(0.5), optax.trace(0.9))
    _, state = optax_run(before, [GRADS])
    after.update(GRADS, state, PARAMS)  # with the trace of another: nothing is said
    tx, new = jadam.adamw(1e-2), clipped(jadam)
    params, state = run(tx, PARAMS, [GRADS] * 3)
    with pytest.raises(ValueError, match="clip_by_global_norm"):
        new.update(GRADS, state, params)
    moved, report = jadam.migrate(state, new, params)
    chex.assert_trees_all_equal((moved.count, moved.slots), (state.count, state.slots))
    assert "clip_by_global_norm.max_norm" in str(report)
    assert not report.dropped


@pytest.mark.parametrize("axes", [("data",), ("data", "model")])
def test_more_or_fewer_devices_on_resume(axes):
    """Saved from one, read on eight, saved from these and read on one: each element as it was."""
    tx, spec = clipped(jadam), jax.sharding.PartitionSpec(*axes)
    params = {"w": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8)}
    grads = jax.tree.map(jnp.cos, params)
    one, state = run(tx, params, [grads] * 2)
    place = jax.sharding.NamedSharding(eight_devices(jax.sharding.AxisType.Auto), spec)
    spread = jax.device_put(one, place)
    there = jadam.from_dict(tx, spread, jadam.to_dict(state))
    assert there.slots["adam"]["mu"]["w"].sharding.is_equivalent_to(place, 2)
    back = jadam.from_dict(tx, one, jadam.to_dict(there))
    chex.assert_trees_all_equal(back, state)
    expected, _ = tx.step(grads, state, one)
    found, _ = tx.step(jax.device_put(grads, place), there, spread)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_every_row_of_the_page_is_a_test():
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| .*`(tests/[\w/]+\.py)::(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 17
    own = {test for path, test in rows if path == "tests/test_faults.py"}
    there = set(re.findall(r"^def (test_\w+)\(", (ROOT / "tests" / "test_faults.py").read_text(), re.MULTILINE))
    assert own == there - {"test_every_row_of_the_page_is_a_test"}
