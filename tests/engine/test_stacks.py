"""Matrices on a mesh: whole ones on each device, and two exchanges for all of a shape."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jadam

RNG = np.random.default_rng(0)
COLLECTIVE = re.compile(r" = (.*?) (all-to-all|all-gather|all-reduce|collective-permute|reduce-scatter)(?:-start)?\(")


def trees(shapes):
    """Parameters and gradients."""
    return tuple({k: jnp.asarray(RNG.standard_normal(s)) for k, s in shapes.items()} for _ in range(2))


def step_of(tx):
    return jax.jit(lambda params, state, grads: tx.step(grads, state, params))


def collectives(text):
    """How many of each, and the bytes of their results on a device."""
    found = [match.groups() for match in map(COLLECTIVE.search, text.splitlines()) if match]
    sizes = [
        int(np.prod([int(x) for x in dims.split(",")])) for kind, _ in found for dims in re.findall(r"f32\[([\d,]+)\]", kind)
    ]
    return Counter(op for _, op in found), 4 * sum(sizes)


def on_mesh(tx, shapes, spec, axis_type=AxisType.Auto, mesh=(8,), steps=2):
    """The collectives of a step, and parameters after some steps on a mesh and on one device."""
    mesh = jax.make_mesh(mesh, ("data", "model")[: len(mesh)], axis_types=(axis_type,) * len(mesh))
    params, grads = trees(shapes)

    def place(tree):
        return {k: jax.device_put(x, NamedSharding(mesh, spec(k))) for k, x in tree.items()}

    own, g, alone, step = place(params), place(grads), params, step_of(tx)
    before, state = own, tx.init(own)
    counts = collectives(step.lower(own, state, g).compile().as_text())
    other = tx.init(alone)
    for _ in range(steps):
        placed = state
        own, state = step(own, state, g)
        alone, other = step(alone, other, grads)
        for new, old in zip(jax.tree.leaves((own, state)), jax.tree.leaves((before, placed)), strict=True):
            assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
    return counts, own, alone


SIXTEEN = {f"w{i}": (256, 1024) for i in range(16)}


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sixteen_matrices_spread_over_eight_devices(axis_type):
    """240 all-gathers and 188.7 MB a device, where each product gathered its factors."""
    (found, size), own, alone = on_mesh(jadam.muon(0.02), SIXTEEN, lambda k: P("data"), axis_type)
    assert found == {"all-to-all": 2}
    assert size == 2 * 16 * 256 * 1024 * 4 // 8
    for k in own:
        np.testing.assert_allclose(own[k], alone[k], atol=1e-6)


LAYOUTS = {
    "the first axis": ((8,), lambda k: P("data"), {"all-to-all": 2}),
    "the first axis or the last": ((8,), lambda k: P("data") if k < "w2" else P(None, "data"), {"all-to-all": 4}),
    "two axes": ((4, 2), lambda k: P("data", "model"), {"all-to-all": 6}),
    "replicated": ((8,), lambda k: P(), {"all-gather": 1}),
}


@pytest.mark.parametrize("axis_type", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(
    "name", [name if name == "two axes" else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS]
)
def test_exchanges_of_wide_and_tall_matrices(name, axis_type):
    """Of (in, out) and (out, in) together; five matrices, so that the stack is padded."""
    mesh, spec, expected = LAYOUTS[name]
    shapes = {"w0": (16, 64), "w1": (16, 64), "w2": (64, 16), "w3": (64, 16), "w4": (64, 16)}
    (found, _), own, alone = on_mesh(jadam.muon(0.02), shapes, spec, axis_type, mesh)
    assert found == expected
    for k in own:
        np.testing.assert_allclose(own[k], alone[k], atol=2e-6)


@pytest.mark.parametrize(
    ("wide", "tall"), [(0, 1), *(pytest.param(*some, marks=pytest.mark.slow) for some in [(9, 0), (8, 1), (5, 4), (1, 8)])]
)
def test_one_matrix_too_many(wide, tall):
    """A stack of one was filled up to eight, and of nine to sixteen: each device makes the last for itself."""
    shapes = {f"w{n}": (8, 16) if n < wide else (16, 8) for n in range(wide + tall)}
    (found, _), own, alone = on_mesh(jadam.muon(0.02), shapes, lambda k: P("data"))
    assert found["all-gather"] == 1
    assert found["all-to-all"] == 0 or wide + tall == 9
    for k in own:
        np.testing.assert_allclose(own[k], alone[k], atol=2e-6)


@pytest.mark.parametrize(
    ("count", "spec", "size"),
    [
        (2, P("data"), 1 + 1 / 4),
        pytest.param(2, P(), 2, marks=pytest.mark.slow),
        pytest.param(3, P(None, "data"), 1 + 1 / 2, marks=pytest.mark.slow),
        pytest.param(4, P("data"), 1 + 1 / 2, marks=pytest.mark.slow),
    ],
)
def test_fewer_matrices_than_devices(count, spec, size):
    """In matrices a device. A stack of two was filled up to eight: parts of as many were sent back, and of whole ones all."""
    shapes = {f"w{n}": (8, 16) for n in range(count)}
    (found, sent), own, alone = on_mesh(jadam.muon(0.02), shapes, lambda k: spec)
    assert found == ({"all-to-all": 2} if spec else {"all-gather": 1})
    assert sent == size * 8 * 16 * 4
    for k in own:
        np.testing.assert_allclose(own[k], alone[k], atol=2e-6)


SOAP = jadam.soap(0.02, weight_decay=0.0)


@pytest.mark.usefixtures("x64")  # in float32 SOAP makes full steps of some roundings
@pytest.mark.parametrize(
    ("shapes", "spec", "axis_type"),
    [
        ({"w0": (8, 16), "w1": (8, 16)}, P("data"), AxisType.Auto),
        *(
            pytest.param(shapes, spec, kind, marks=pytest.mark.slow)
            for shapes, spec, kind in [
                ({f"w{n}": (8, 16) for n in range(9)}, P(None, "data"), AxisType.Auto),
                ({f"w{n}": (8, 16) for n in range(9)}, P("data"), AxisType.Explicit),
                (
                    {"layers/kernel": (3, 8, 16), "layers/bias": (3, 16), "dense/weight": (8, 16)},
                    P(None, "data"),
                    AxisType.Auto,
                ),
                ({"a/query/kernel": (16, 4, 8), "b/query/kernel": (16, 4, 8), "qkv/w": (16, 48)}, P("data"), AxisType.Auto),
                ({"w0": (16, 16), "linear/weight": (16, 16), "w": (8, 8, 2, 2)}, P("data"), AxisType.Explicit),
            ]
        ),
    ],
)
def test_what_soap_keeps_goes_with_its_matrices(shapes, spec, axis_type):
    """XLA gathered each of seven arrays of each matrix, most of them several times."""
    (found, _), own, alone = on_mesh(SOAP, shapes, lambda k: P() if k.endswith("bias") else spec, axis_type, steps=3)
    assert set(found) == {"all-to-all"} or len(shapes) > 2
    for k in own:
        np.testing.assert_allclose(own[k], alone[k], atol=1e-7)  # rounding, 1e-16, divided by `eps`


@pytest.mark.slow
def test_other_axes_and_shapes_in_one_step():
    """Attention, a scan, a fused kernel and a vector, of which none is like another on its axes."""
    shapes = {"query/kernel": (16, 8, 4), "out/kernel": (8, 4, 16), "qkv/kernel": (16, 48), "bias": (16,), "w": (16, 24)}
    tx = jadam.normuon(0.02)
    (found, _), own, alone = on_mesh(tx, shapes, lambda k: P("data"))
    assert found["all-to-all"] >= 2
    for k in own:
        np.testing.assert_allclose(own[k], alone[k], atol=2e-6)


def test_inside_shard_map_nothing_is_exchanged():
    """Each device has whole matrices there, and a mesh whose axes are manual."""
    mesh = jax.make_mesh((8,), ("data",))
    params, grads = trees({"w0": (8, 16), "w1": (8, 16)})
    tx = jadam.muon(0.02)
    state = tx.init(params)
    step = jax.shard_map(lambda p, s, g: tx.step(g, s, p), mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    text = jax.jit(step).lower(params, state, grads).compile().as_text()
    assert not collectives(text)[0]
    found, expected = jax.jit(step)(params, state, grads)[0], step_of(tx)(params, state, grads)[0]
    for k in params:
        np.testing.assert_allclose(found[k], expected[k], atol=1e-6)


def test_a_fused_kernel_is_three_matrices():
    q, k, v = (RNG.standard_normal((8, 8)).astype("float32") for _ in range(3))
    fused, apart = {"qkv": {"w": jnp.concatenate([q, k, v], 1)}}, {"q": {"w": q}, "k": {"w": k}, "v": {"w": v}}
    tx = jadam.muon(0.02)
    together, _ = tx.update(fused, tx.init(fused), fused)
    alone, _ = tx.update(apart, tx.init(apart), apart)
    expected = jnp.concatenate([alone[key]["w"] for key in "qkv"], 1)
    np.testing.assert_allclose(together["qkv"]["w"], expected, atol=1e-6)
    whole = jadam.muon(0.02, matrices=[(True, jadam.axes(0, 1))])
    one, _ = whole.update(fused, whole.init(fused), fused)
    assert np.abs(one["qkv"]["w"] - expected).max() > 1e-3


def test_soap_of_stacked_and_merged_axes():
    """Layers under scan are turned one by one, and heads with their sizes as one side."""
    g = {"layers": {"kernel": RNG.standard_normal((3, 6, 4)).astype("float32"), "bias": RNG.standard_normal((3, 4))}}
    tx = jadam.soap(0.1, weight_decay=0.0)
    state = tx.init(g)
    assert state.slots["soap"]["gram_1"]["layers"]["kernel"].shape == (3, 6, 6)
    alone = [{"layers": {"kernel": g["layers"]["kernel"][n]}} for n in range(3)]
    states = [tx.init(one) for one in alone]
    for _ in range(3):
        together, state = tx.update(g, state, g)
        apart = [tx.update(one, own, one) for one, own in zip(alone, states, strict=True)]
        states = [own for _, own in apart]
    for n, (one, _) in enumerate(apart):
        np.testing.assert_allclose(together["layers"]["kernel"][n], one["layers"]["kernel"], atol=2e-5)
    heads = {"query": {"kernel": jnp.ones((6, 2, 3))}}
    assert tx.init(heads).slots["soap"]["gram_1"]["query"]["kernel"].shape == (6, 6)


def test_adafactor_and_adam_mini_by_the_axes():
    params = {"layers": {"kernel": jnp.ones((3, 8, 4)), "bias": jnp.ones((3, 4))}, "query": {"kernel": jnp.ones((8, 2, 4))}}
    slots = jadam.adafactor(1e-2).init(params).slots["adafactor"]
    assert slots["nu_row"]["layers"]["kernel"].shape == (3, 8, 1)
    assert slots["nu_col"]["query"]["kernel"].shape == (1, 2, 4)
    assert slots["nu"]["layers"]["bias"].shape == (3, 4)
    nu = jadam.adam_mini(1e-2).init(params).slots["adam_mini"]["nu"]
    assert nu["layers"]["kernel"].shape == (3, 1, 4)
    assert nu["query"]["kernel"].shape == (1, 2, 4)
    said = jadam.adam_mini(1e-2, matrices=[(jadam.match("query/*"), jadam.axes((0, 2), 1))]).init(params)
    assert said.slots["adam_mini"]["nu"]["query"]["kernel"].shape == (1, 2, 1)
