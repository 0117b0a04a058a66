"""The contract: what holds for every optimizer, whatever its algorithm."""

import inspect
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import OPTIMIZERS, at, cast, counted, eight_devices, is_finite, run, scanned, stack

import jadam

RNG = np.random.default_rng(0)
SHAPES = {"kernel": (3, 4), "inner": {"bias": (4,), "scalar": ()}}
VALUES = jax.tree.map(lambda s: RNG.standard_normal(s), SHAPES, is_leaf=lambda s: isinstance(s, tuple))
GRADS = [jax.tree.map(lambda x: RNG.standard_normal(x.shape), VALUES) for _ in range(30)]
DTYPES = ["float32", "bfloat16", "float16"]


def mixed(tree):
    """The tree in each dtype, as one: one program for all."""
    return {dtype: cast(tree, dtype) for dtype in DTYPES}


def is_elementwise(tx):
    return all(part.rule.elementwise for part in tx.parts)


def few_steps(number=3):
    """Parameters and gradients in float32."""
    return cast(VALUES, "float32"), cast(GRADS[:number], "float32")


def test_every_optimizer_has_an_oracle():
    missing = set(OPTIMIZERS) - set(oracles.ORACLES)
    assert not missing, f"write an oracle and cases for {missing} in tests/oracles/elementwise.py or arrays.py"
    assert set(OPTIMIZERS) >= {"sgd", "adam", "adamw"}, "the search for optimizers is broken"


@pytest.mark.parametrize(("name", "number"), [(n, i) for n in sorted(oracles.CASES) for i in range(len(oracles.CASES[n]))])
@pytest.mark.usefixtures("x64")
def test_equals_its_oracle(name, number):
    kwargs = oracles.CASES[name][number]
    tx = OPTIMIZERS[name](0.01, **kwargs)
    params, path = cast(VALUES, "float64"), []
    state = tx.init(params)
    for g in GRADS:  # one program for all cases of one structure: the numbers are in the state
        params, state = tx.step(cast(g, "float64"), state, params)
        path.append(params)
    leaves = [list(map(np.asarray, jax.tree.leaves(tree))) for tree in (VALUES, stack(GRADS), stack(path))]
    if name in oracles.GLOBAL:  # it looks at all parameters together
        ravelled = [[x.reshape(*x.shape[:lead], -1) for x in arrays] for arrays, lead in zip(leaves, (0, 1, 1), strict=True)]
        leaves = [[np.concatenate(arrays, axis=-1)] for arrays in ravelled]
    for start, recorded, found in zip(*leaves, strict=True):
        expected = np.stack(list(oracles.ORACLES[name](start, list(recorded), 0.01, **kwargs)))
        moved = np.max(np.abs(expected - start), initial=1e-6)
        assert np.max(np.abs(found - expected)) <= 1e-12 * max(moved, 1e-3)


def test_the_first_arguments_are_positional(optimizer):
    """The learning rate, and those whose order is the same in every library; the rest by name."""
    parameters = inspect.signature(optimizer).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    orders = [["learning_rate", *others] for others in (["b1", "b2", "eps"], ["b1", "b2", "b3", "eps"], ["momentum"])]
    assert any(names == order[: len(names)] for order in orders)
    assert len(names) > 1 or not {"b1", "b2", "b3"} & {p.name for p in parameters}
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters if p.name not in names)
    assert all(p.default is not p.empty for p in parameters if p.name != "learning_rate")


@pytest.mark.parametrize("dtype", DTYPES)
def test_structure_is_a_fixed_point(optimizer, dtype):
    """By abstract evaluation, which compiles nothing; a scan refuses a carry of another type."""
    tx, params, grads = optimizer(0.1), cast(VALUES, dtype), cast(GRADS[0], dtype)
    state = tx.init(params)
    updates, after = jax.eval_shape(tx.update, grads, state, params)
    carry = jax.eval_shape(lambda p, g: scanned(tx, p, stack([g] * 3)), params, grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    chex.assert_trees_all_equal_shapes_and_dtypes((params, state), carry)
    assert not any(x.weak_type for x in jax.tree.leaves((state, updates, after)))


def test_slots_and_arithmetic_are_float32(optimizer):
    """16-bit parameters get the update of float32 ones, rounded once: nothing is computed in 16 bits."""
    tx, low = optimizer(0.1), mixed(VALUES)
    full = cast(low, "float32")
    state, wide_state = tx.init(low), tx.init(full)
    assert {x.dtype for x in jax.tree.leaves(state.slots)} <= {jnp.dtype("float32")}
    for g in map(mixed, GRADS[:5]):  # the parameters stay where they are, so that both see the same
        updates, state = tx.update(g, state, low)
        expected, wide_state = tx.update(cast(g, "float32"), wide_state, full)
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda x, p: x.astype(p.dtype), expected, low))
    chex.assert_trees_all_equal(state, wide_state)
    assert state.count == 5


def test_jit_eager_scan_and_step_agree(optimizer):
    tx, (params, grads) = optimizer(0.1), few_steps()
    eager = run(tx, params, grads, by="update")
    jitted = jax.jit(lambda p, gs: run(tx, p, gs, by="update"))(params, grads)
    chex.assert_trees_all_close(eager, jitted, rtol=2e-6, atol=1e-7)  # fused otherwise: an ulp a step
    chex.assert_trees_all_close(eager, scanned(tx, params, stack(grads)), rtol=2e-6, atol=1e-7)
    with pytest.raises(AssertionError):  # the tolerance can tell one missing step
        chex.assert_trees_all_close(run(tx, params, grads[:-1], by="update")[0], jitted[0], rtol=2e-6, atol=1e-7)


def test_vmap_equals_a_loop(optimizer):
    tx, (_, grads) = optimizer(0.1), few_steps()
    models = [cast(jax.tree.map(lambda x, i=i: x + i, VALUES), "float32") for i in range(3)]
    step, many, g = jax.jit(jax.vmap(tx.step)), stack(models), stack(grads)
    states = stack([tx.init(p) for p in models])
    for _ in range(2):
        many, states = step(g, states, many)
    one_by_one = [run(tx, p, [g, g], by="update") for p, g in zip(models, grads, strict=True)]
    chex.assert_trees_all_close((many, states), stack(one_by_one), rtol=1e-6, atol=1e-6)


def test_init_under_eval_shape_jit_and_cond(optimizer):
    tx, params, grads = optimizer(0.1), cast(VALUES, "float32"), cast(GRADS[0], "float32")
    state = tx.init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, params), state)
    chex.assert_trees_all_equal(jax.jit(tx.init)(params), state)

    def either(ok):
        return jax.lax.cond(ok, lambda: tx.step(grads, state, params), lambda: (params, state))

    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(either, True), (params, state))


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e-8, 1e4, 1e19, 1e30, 3e38])
def test_no_finite_gradient_gives_nan_or_inf(optimizer, size):
    """One gradient of 1e20 made optax's nu inf, and every later step of that weight zero."""
    tx, params = optimizer(1e-3), mixed(VALUES)
    grads = jax.tree.map(lambda x: jnp.full_like(x, min(size, float(jnp.finfo(x.dtype).max))), params)
    state = tx.init(params)
    for _ in range(5):
        updates, state = tx.update(grads, state, params)
        assert is_finite((updates, state))


@pytest.mark.parametrize("scale", [1e12, 1e18])
@pytest.mark.usefixtures("x64")
def test_huge_gradients_are_exact(optimizer, scale):
    """Squares of 1e18 fit in float32, and so do means of them: elements of 5e15 and more were cut, and looked alike."""
    own = {"min_dim_size_to_factor": 2} if optimizer.__name__ == "big_vision_adafactor" else {}
    rng = np.random.default_rng(1)
    tx, start = optimizer(1e-3, **own), rng.standard_normal((6, 6))
    grads = [scale * size * rng.standard_normal((6, 6)) / 4 for size in (1.0, 0.01, 0.3)]
    narrow, exact = (
        run(tx, cast({"w": start}, dtype), cast([{"w": g} for g in grads], dtype))[0]["w"] for dtype in ("float32", "float64")
    )
    moved = np.abs(exact - start).max()
    assert np.abs(np.asarray(narrow, np.float64) - exact).max() <= 1e-3 * moved + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("size", [2.0**61, 3e38])
def test_huge_gradients_stay_finite_for_long(optimizer, size):
    """Sums over 4096 elements, and over a hundred steps: Adagrad's was inf after 64, and its steps zero for ever."""
    own = {"min_dim_size_to_factor": 2} if optimizer.__name__ == "big_vision_adafactor" else {}
    tx, signs = optimizer(1e-12, **own), np.sign(RNG.standard_normal((100, 64, 64))).astype(np.float32)
    params = {"w": jnp.zeros((64, 64))}
    for grads in (signs * np.float32(size), np.full_like(signs, size)):
        assert is_finite(scanned(tx, params, {"w": jnp.asarray(grads)}))


def products(jaxpr):
    """All products of matrices in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def test_products_are_float32_on_every_platform(optimizer):
    """JAX's default for float32 is TF32 on an A100 or H100, and bfloat16 on a TPU."""
    tx, params = optimizer(0.1), {"w": jnp.ones((8, 8))}
    found = list(products(jax.make_jaxpr(tx.step)(params, tx.init(params), params).jaxpr))
    assert {product.params["precision"] for product in found} <= {(jax.lax.Precision.HIGHEST,) * 2}
    assert bool(found) == (optimizer.__name__ in ("soap", "muon", "normuon"))


def test_uneven_gradients_stay_finite(optimizer):
    """Rows and columns of zeros and of tiny numbers beside huge ones: big_vision's factored root was 0 / 0 there."""
    own = {"min_dim_size_to_factor": 2} if optimizer.__name__ == "big_vision_adafactor" else {}
    tx, params = optimizer(1e-3, **own), {"w": jnp.asarray(RNG.standard_normal((32, 32)), jnp.float32)}
    signs = np.sign(RNG.standard_normal((32, 32)))
    for size in (1e5, 1e30):
        g = size * signs
        g[3], g[:, 5], g[7], g[:, 9] = 0.0, 0.0, 1e-30, 1e-30
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update({"w": jnp.asarray(g, jnp.float32)}, state, params)
        assert is_finite((updates, state))


def test_buffers_can_be_donated_and_empty_arrays_passed(optimizer):
    """No two slots share a buffer, with each other or with the parameters; what has no elements is passed over."""
    params = {"w": jnp.ones((4, 4)), "empty": jnp.ones((0, 3)), "none": jnp.ones((3, 0))}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = optimizer(0.1)
    params, state = jax.jit(tx.step, donate_argnums=(1, 2))(grads, tx.init(params), params)
    assert is_finite((params, state))
    assert params["empty"].shape == (0, 3)


def test_a_nan_reaches_the_update_or_the_state(optimizer):
    """Errors of the loss are not hidden: a NaN or inf in a gradient reaches the update or, where that is a sign, the state."""
    tx, params = optimizer(0.1), {"w": jnp.ones((3, 2))}
    for bad in (jnp.nan, jnp.inf):
        grads = {"w": jnp.ones((3, 2)).at[0, 0].set(bad)}
        updates, state = tx.update(grads, tx.init(params), params)
        after, state = tx.update(grads, state, params)
        seen = [x[0, 0] for x in (updates["w"], after["w"], *jax.tree.leaves(state.slots)) if x.shape == (3, 2)]
        assert not all(map(jnp.isfinite, seen))
        assert not jnp.isnan(bad) or not jnp.isfinite(after["w"][0, 0])
        if is_elementwise(tx) and not state.scalars:
            assert jnp.isfinite(after["w"][1:]).all()


@pytest.mark.slow
def test_a_constant_schedule_is_the_number(optimizer):
    params, grads = few_steps(30)
    number, schedule = optimizer(0.1), optimizer(jadam.constant_schedule(0.1))
    by_number, by_schedule = (run(tx, params, grads, by="update") for tx in (number, schedule))
    chex.assert_trees_all_equal(by_number, by_schedule)  # the state too: its structure does not tell them apart
    function = optimizer(lambda count: 0.1 * (count >= 0).astype(jnp.float32))
    chex.assert_trees_all_equal(function.init(params), number.init(params))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_hyperparameters_can_be_differentiated(optimizer):
    """By the state, and by the argument of an optimizer that is built inside."""
    later, params, grads = optimizer(0.1), cast(VALUES, "float64"), cast(GRADS[0], "float64")

    def moved(tx, rate):  # in two steps: some stand still at the first
        state = tx.set_hyperparams(tx.init(params), learning_rate=rate) if tx == later else tx.init(params)
        new, state = tx.step(grads, state, params)
        return sum(jnp.sum(x) for x in jax.tree.leaves(tx.step(grads, state, new)[0]))

    slope = (moved(later, 0.1001) - moved(later, 0.0999)) / 0.0002

    both = jax.grad(lambda set_later, built: moved(later, set_later) + moved(optimizer(built), built), (0, 1))
    by_state, inside = jax.jit(both)(0.1, 0.1)
    assert by_state == pytest.approx(float(slope), rel=1e-4)
    assert by_state != 0
    assert inside == pytest.approx(float(by_state), rel=1e-6)


def test_a_sweep_in_one_program(optimizer):
    """Eight learning rates are eight models of one compiled step, each as if trained alone."""
    tx, (params, grads) = optimizer(0.1), few_steps()
    rates = jnp.linspace(0.01, 0.2, 8)
    states = jax.vmap(lambda rate: tx.set_hyperparams(tx.init(params), learning_rate=rate))(rates)
    many = stack([params] * 8)
    step = jax.jit(jax.vmap(tx.step, in_axes=(None, 0, 0)))
    for number, g in enumerate(grads):
        compiled, (many, states) = counted(partial(step, g, states, many))
        assert compiled == (1 if number == 0 else 0)
    for number in (0, 7):
        alone, _ = run(optimizer(float(rates[number])), params, grads, by="update")
        chex.assert_trees_all_close(at(many, number), alone, rtol=1e-5, atol=1e-6)


def test_converges(optimizer):
    """On a quadratic, from zero, to a thousandth of the loss."""
    target = cast(VALUES, "float32")
    tx = optimizer(jadam.cosine_decay_schedule(oracles.LEARNING_RATES.get(optimizer.__name__, 0.05), 400))
    params = jax.tree.map(jnp.zeros_like, target)
    state, first = tx.init(params), loss_and_gradient(params, target)[0]
    for _ in range(400):
        params, state = tx.step(loss_and_gradient(params, target)[1], state, params)
    assert loss_and_gradient(params, target)[0] < 1e-3 * first


@jax.jit
@jax.value_and_grad
def loss_and_gradient(params, target):
    return sum(jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (params, target)), strict=True))


def test_complex_parameters_are_pairs_of_reals(optimizer):
    """A complex parameter moves as its real and imaginary parts would, as in torch."""
    tx, values = optimizer(0.1), RNG.standard_normal((2, 5, 3)).astype(np.float32)
    pair = {"re": jnp.asarray(values[0]), "im": jnp.asarray(values[1])}
    one = {"z": jnp.asarray(values[0] + 1j * values[1])}
    if not is_elementwise(tx):
        with pytest.raises(TypeError, match=r"does not act on complex parameters, and z is complex64"):
            tx.init(one)
        return
    grads = [{"re": jnp.full((5, 3), a), "im": jnp.full((5, 3), b)} for a, b in ((0.3, -1.0), (2.0, 0.1))]
    apart, _ = run(tx, pair, grads, by="update")
    together, state = run(tx, one, [{"z": jax.lax.complex(g["re"], g["im"])} for g in grads], by="update")
    chex.assert_trees_all_close(together["z"], jax.lax.complex(apart["re"], apart["im"]), rtol=1e-6)
    assert all(x.shape == (5, 3) and x.dtype == jnp.complex64 for x in jax.tree.leaves(state.slots))


def test_eight_devices_give_the_numbers_of_one(optimizer):
    """On a mesh as `jax.make_mesh` makes it, with explicit axes; whatever an algorithm sums or multiplies."""
    sharding = NamedSharding(eight_devices(AxisType.Explicit), PartitionSpec("data", "model"))
    tx, w = optimizer(0.1), jnp.asarray(RNG.standard_normal((8, 8)), jnp.float32)
    grads = [{"w": jnp.asarray(RNG.standard_normal((8, 8)), jnp.float32)} for _ in range(3)]
    alone, _ = run(tx, {"w": w}, grads, by="update")
    params = {"w": jax.device_put(w, sharding)}
    start = tx.init(params)
    spread, state = run(tx, params, [jax.device_put(g, sharding) for g in grads], by="update")
    # Sums in another order are some 1e-7 apart, which the eigenvectors of SOAP make up to a hundred times larger.
    apart = 1e-4 if optimizer is jadam.soap else 1e-5
    chex.assert_trees_all_close(alone, spread, rtol=apart, atol=apart)
    places = [jax.tree.map(lambda x: x.sharding, tree) for tree in (start, state)]
    assert places[0] == places[1] == jadam.state_shardings(tx, params)
