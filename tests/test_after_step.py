"""What sees the new parameter: rules at the end of a chain, projections, QK-clip, and a floor under update ratios."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_differ, run

import jadam

RNG = np.random.default_rng(0)
W, G = (jnp.asarray(RNG.standard_normal((6, 5)), jnp.float32) for _ in range(2))
AROUND = [
    lambda tx: jadam.accumulate(tx, 2),
    *(
        pytest.param(around, marks=pytest.mark.slow)
        for around in (
            lambda tx: tx,
            lambda tx: jadam.chain(jadam.clip_by_global_norm(1.0), tx),
            jadam.guard,
            lambda tx: jadam.average(tx, 0.9),
            lambda tx: jadam.chain(jadam.identity(), jadam.monitor(tx)),
            lambda tx: jadam.partition([(True, tx, "all")]),
        )
    ),
]


@dataclass(frozen=True)
class LandOnGrid(jadam.AfterStep):
    """An author's own: the nearest multiple of a spacing, and the largest distance to it so far."""

    spacing: jadam.Positive = 0.25

    def init(self, p):
        return {"furthest": jadam.zeros(p)}

    def land(self, u, slots, p, h):
        new = jnp.round((p + u) / h.spacing) * h.spacing
        return new, {"furthest": jnp.maximum(slots["furthest"], jnp.abs(new - p - u))}


ON_GRID = jadam.block(LandOnGrid)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("by", ["step", "update"])
def test_where_a_step_lands(around, by):
    """Whatever stands around the chain, whatever the dtype; and with `apply_updates`."""
    tx = around(jadam.chain(jadam.sgd(0.3), ON_GRID()))
    for dtype, storage in ((jnp.float32, {}), (jnp.bfloat16, {"params": "remainder"})):
        found, _ = run(jadam.with_precision(tx, **storage) if storage else tx, W.astype(dtype), [G.astype(dtype)] * 2, by)
        np.testing.assert_allclose(found * 4, jnp.round(found * 4), rtol=0 if by == "step" else float(jnp.finfo(dtype).eps))
        assert_differ(found, W.astype(dtype))


def test_a_rule_of_an_authors_own():
    new, state = run(jadam.chain(jadam.sgd(1.0), ON_GRID(spacing=0.5)), W, [G])
    np.testing.assert_array_equal(new, jnp.round((W - G) * 2) / 2)
    np.testing.assert_allclose(state.slots["land_on_grid"]["furthest"], jnp.abs(new - (W - G)), atol=1e-6)


def test_nothing_that_changes_updates_may_follow():
    last, grid = ("scale would change the update of the root after land_on_grid", "put land_on_grid last"), ON_GRID()
    adam, half = jadam.adam(0.1), jadam.scale(0.5)
    other_pair = optax.scale(0.5)
    for wrong in (
        jadam.chain(adam, grid, half),
        jadam.chain(jadam.accumulate(jadam.chain(adam, grid), 2), half),
        jadam.chain(grid, jadam.accumulate(half, 2)),
        jadam.chain(adam, grid, other_pair),
        jadam.lookahead(jadam.chain(adam, grid), 5, 0.5),
    ):
        with pytest.raises(ValueError, match="would change the update of the root after land_on_grid"):
            wrong.init(W)
    with pytest.raises(ValueError, match=".*".join(last)):
        jadam.chain(adam, grid, half).init(W)
    params = {"a": W, "b": W}
    for right in (
        jadam.chain(jadam.masked(grid, jadam.match("a")), jadam.masked(half, jadam.match("b"))),
        jadam.chain(adam, grid, jadam.keep_params_nonnegative(), grid),
        jadam.average(jadam.chain(adam, grid)),
    ):
        right.init(params)


def test_a_state_from_elsewhere_is_refused_too():
    """`init` is not always of the chain that steps."""
    right, wrong = (jadam.chain(*parts) for parts in ((jadam.scale(0.5), ON_GRID()), (ON_GRID(), jadam.scale(0.5))))
    with pytest.raises(ValueError, match="put land_on_grid last"):
        wrong.step(G, right.init(W), W)


def test_complex_parameters_are_refused():
    z = jnp.ones((2, 2), jnp.complex64)
    for tx in (jadam.keep_params_nonnegative(), jadam.keep_params_in_l2_ball(), ON_GRID(), jadam.hyperball(jadam.sgd(0.1))):
        with pytest.raises(TypeError, match="does not act on complex parameters, and z is complex64; mask it out"):
            tx.init({"z": z})


def test_without_parameters():
    tx = jadam.keep_params_nonnegative()
    with pytest.raises(ValueError, match="keep_params_nonnegative needs the parameters"):
        tx.update(G, tx.init(W))


# Projections


@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize(
    "storage",
    [None, "stochastic", *(pytest.param(how, marks=pytest.mark.slow) for how in ("nearest", "kahan", "remainder"))],
)
def test_nonnegative(storage, by):
    dtype = jnp.bfloat16 if storage else jnp.float32
    tx = jadam.chain(jadam.sgd(0.5), jadam.keep_params_nonnegative())
    found, _ = run(
        tx if storage is None else jadam.with_precision(tx, params=storage), W.astype(dtype), [G.astype(dtype)] * 3, by
    )
    assert bool((found >= 0).all())
    assert 0 < int((found == 0).sum()) < found.size
    if storage is None:
        theirs = optax.chain(optax.sgd(0.5), optax.keep_params_nonnegative())
        params, state = jnp.abs(W), theirs.init(W)
        for _ in range(3):
            updates, state = theirs.update(G, state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(run(tx, jnp.abs(W), [G] * 3, by)[0], params, atol=1e-6)


def test_nonnegative_rows_of_a_table():
    tx = jadam.chain(jadam.sgd(1.0), jadam.keep_params_nonnegative())
    ids = jnp.asarray([4, 1])
    found, _ = run(tx, jnp.abs(W), [jadam.Rows(ids, jnp.ones((2, 5)))])
    np.testing.assert_array_equal(found, jnp.abs(W).at[ids].set(jnp.maximum(jnp.abs(W)[ids] - 1, 0)))
    ball = jadam.chain(jadam.sgd(1.0), jadam.keep_params_in_l2_ball())
    with pytest.raises(ValueError, match="keep_params_in_l2_ball mixes the elements of a parameter"):
        run(ball, W, [jadam.Rows(ids, jnp.ones((2, 5)))])


def test_ball():
    new = np.asarray(W - G, np.float64)
    for axis in (None, 0, -1, (0, 1)):
        length = np.sqrt(np.sum(new**2, axis, keepdims=True))
        radius = float(np.median(length)) * (1.0 if length.size > 1 else 0.5)
        found, _ = run(jadam.chain(jadam.sgd(1.0), jadam.keep_params_in_l2_ball(radius, axis=axis)), W, [G])
        np.testing.assert_allclose(found, new * np.minimum(1, radius / length), rtol=1e-5)
    inside, _ = run(jadam.chain(jadam.sgd(1.0), jadam.keep_params_in_l2_ball(1e3)), W, [G])
    np.testing.assert_array_equal(inside, run(jadam.sgd(1.0), W, [G])[0])
    zeros, _ = run(jadam.chain(jadam.sgd(1.0), jadam.keep_params_in_l2_ball()), 0 * W, [0 * G])
    np.testing.assert_array_equal(zeros, 0 * W)


def nearest_in_simplex(row, scale):
    """Duchi et al. 2008, Algorithm 1."""
    largest = np.sort(row)[::-1]
    excess = (np.cumsum(largest) - scale) / np.arange(1, len(row) + 1)
    return np.maximum(row - excess[np.flatnonzero(largest > excess)[-1]], 0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_simplex(offset):
    """The nearest point of each row; long rows and common offsets cost no digits."""
    new = W - G + offset
    for axis, scale in ((-1, 1.0), (0, 3.0)):
        found, _ = run(jadam.chain(jadam.keep_params_in_simplex(scale, axis=axis)), new, [0 * G])
        rows = jnp.moveaxis(new, axis, -1) - offset
        theirs = np.moveaxis([nearest_in_simplex(row, scale) for row in np.asarray(rows, np.float64)], -1, axis)
        np.testing.assert_allclose(found, theirs, atol=1e-3 if offset else 1e-6)
        np.testing.assert_allclose(found.sum(axis), scale, rtol=1e-4 if offset else 1e-6)
        assert bool((found >= 0).all())
        assert int((found == 0).sum()) > 0
    long = jnp.asarray(np.random.default_rng(1).standard_normal(100_000), jnp.float32) * 1e-5
    found, _ = run(jadam.keep_params_in_simplex(), long, [0 * long])
    np.testing.assert_allclose(np.asarray(found, np.float64).sum(), 1, rtol=1e-5)


def test_a_projection_of_the_users():
    tx = jadam.chain(jadam.sgd(1.0), jadam.project_params(optax.projections.projection_non_negative, jadam.match("a")))
    found, _ = run(tx, {"a": W, "b": W}, [{"a": G, "b": G}])
    np.testing.assert_allclose(found["a"], jnp.maximum(W - G, 0), atol=1e-6)
    assert int((found["b"] < 0).sum()) > 0


# QK-clip

LOGITS = jnp.asarray([50.0, 200.0, 400.0, jnp.nan])
FACTORS = np.asarray([1.0, 0.5, 0.25, 1.0])
HEADS = jnp.ones((6, 4, 3))


def clipped(params, max_logits, **options):
    tx = jadam.chain(jadam.sgd(0.0), jadam.qk_clip(True, **options))
    return tx.step(params, tx.init(params), params, max_logits=max_logits)[0]


def test_qk_clip():
    """Algorithm 1 of Kimi K2: each of query and key takes the root of the factor; logits that are not too large, none."""
    spread = FACTORS[:, None] * np.ones(3)
    np.testing.assert_allclose(clipped(HEADS, LOGITS), np.broadcast_to(np.sqrt(spread), HEADS.shape), rtol=1e-6)
    np.testing.assert_allclose(clipped(HEADS, LOGITS, power=1.0), np.broadcast_to(spread, HEADS.shape), rtol=1e-6)
    flat = HEADS.reshape(6, 12)
    np.testing.assert_allclose(clipped(flat, LOGITS, axis=-1), np.broadcast_to(np.sqrt(spread).ravel(), flat.shape), rtol=1e-6)
    np.testing.assert_allclose(clipped(HEADS, jnp.asarray(400.0))[0, 0], 0.5 * np.ones(3), rtol=1e-6)


def test_qk_clip_of_shared_keys_and_scanned_layers():
    shared = clipped(jnp.ones((6, 2, 3)), LOGITS)
    np.testing.assert_allclose(shared[0, :, 0], np.sqrt([0.5, 0.25]), rtol=1e-6)
    layers = clipped(jnp.ones((2, 6, 4, 3)), jnp.stack([LOGITS, 0 * LOGITS + 100.0]))
    np.testing.assert_allclose(layers[:, 0, :, 0], np.sqrt([FACTORS, np.ones(4)]), rtol=1e-6)


def test_qk_clip_by_path():
    """The deepest entry along the path counts."""
    params = {f"layer_{n}": {"attn": {name: {"kernel": HEADS} for name in ("query", "key")}} for n in (0, 1, 10)}
    given = {"layer_0": LOGITS, "layer_1": {"attn": 0 * LOGITS, "attn/key": LOGITS}, "layer_10": 0 * LOGITS}
    found = clipped(params, given)
    halved = {n: [float(found[n]["attn"][name]["kernel"][0, 2, 0]) for name in ("query", "key")] for n in params}
    assert halved == {"layer_0": [0.5, 0.5], "layer_1": [1.0, 0.5], "layer_10": [1.0, 1.0]}


def test_qk_clip_with_muon_under_jit():
    params = {"query": {"kernel": HEADS.reshape(6, 12)}, "mlp": W}
    tx = jadam.chain(jadam.muon(0.1), jadam.qk_clip(jadam.match("query/**"), 100.0, axis=-1))
    step = jax.jit(lambda max_logits: tx.step(params, tx.init(params), params, max_logits=max_logits)[0])
    plain, found = step(LOGITS * 0), step(LOGITS)
    np.testing.assert_allclose(found["query"]["kernel"], plain["query"]["kernel"] * np.sqrt(FACTORS).repeat(3)[None], rtol=1e-6)
    chex.assert_trees_all_equal(found["mlp"], plain["mlp"])


# A floor under the update ratio


def test_update_ratio():
    tx = jadam.chain(jadam.sgd(1.0), jadam.floor_update_ratio(0.1))
    ratio = lambda g: float(jnp.linalg.norm(run(tx, W, [g])[0] - W) / jnp.linalg.norm(W))  # noqa: E731
    np.testing.assert_allclose([ratio(1e-3 * G), ratio(1e-30 * G)], 0.1, rtol=1e-5)
    np.testing.assert_allclose(ratio(G), jnp.linalg.norm(G) / jnp.linalg.norm(W), rtol=1e-5)
    np.testing.assert_array_equal(run(tx, W, [0 * G])[0], W)
    np.testing.assert_array_equal(run(tx, 0 * W, [G])[0], -G)
