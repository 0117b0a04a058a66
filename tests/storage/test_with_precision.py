"""`with_precision` around chains, groups, masks and other people's wrappers: what is stored how, refused and warned of."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_differ, dtypes, run, slot_bytes, spread

import jadam

LANDED = ["stochastic", "kahan", "remainder"]


def mixed(seed):
    """A tree with leaves of three dtypes."""
    rng = np.random.default_rng(seed)

    def draw(dtype, *shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    return {
        "low": {"w": draw("bfloat16", 6, 40), "b": draw("bfloat16", 5)},
        "half": draw("float16", 4, 8),
        "full": {"w": draw("float32", 4, 8), "frozen": draw("bfloat16", 3)},
    }


PARAMS, GRADS = mixed(6), [mixed(7 + i) for i in range(3)]
LOW, LOWS = PARAMS["low"], [g["low"] for g in GRADS]


@pytest.mark.parametrize("storage", LANDED[:2])
@pytest.mark.parametrize("by", ["step", "update"])
def test_float32_parameters_are_untouched(storage, by):
    """They are stored as they are, keep nothing beside them, and move as without `params`."""
    tx = jadam.adamw(1e-2)
    plain, _ = run(tx, PARAMS, GRADS, by)
    landed, state = run(jadam.with_precision(tx, params=storage), PARAMS, GRADS, by)
    np.testing.assert_array_equal(landed["full"]["w"], plain["full"]["w"])
    assert_differ(landed["low"], plain["low"])
    if storage == "kahan":
        (tree,) = state.slots["kahan"].values()
        assert tree["full"]["w"] is None
        assert tree["half"].dtype == tree["low"]["w"].dtype == jnp.bfloat16
        assert tree["low"]["w"].shape == (6, 40)
    else:
        assert set(state.slots) == {"adam"}


def test_groups_store_their_parameters_each_its_own_way():
    adam, low, half = jadam.adamw(1e-2), jadam.match("low/**"), jadam.match("half")
    by_remainder, by_kahan = (jadam.with_precision(adam, params=storage) for storage in ("remainder", "kahan"))
    groups = [(jadam.match("**/frozen"), jadam.freeze()), (low, by_remainder), (half, by_kahan), (True, adam)]
    tx = jadam.partition(groups)
    params, state = run(tx, PARAMS, GRADS)
    remainder, _ = run(by_remainder, LOW, LOWS)
    kahan, _ = run(by_kahan, PARAMS["half"], [g["half"] for g in GRADS])
    chex.assert_trees_all_equal((params["low"], params["half"]), (remainder, kahan))
    np.testing.assert_array_equal(params["full"]["w"], run(adam, PARAMS, GRADS)[0]["full"]["w"])
    np.testing.assert_array_equal(params["full"]["frozen"], PARAMS["full"]["frozen"])
    stored = {key: tree for key, tree in state.slots.items() if "adam" not in key}
    assert sorted(key.split(".")[-1] for key in stored) == ["kahan", "remainder"]
    assert sorted(x.dtype.name for x in jax.tree.leaves(stored)) == ["bfloat16", "int16", "int16"]


def test_frozen_parameters_do_not_move():
    """Nothing is rounded where nothing is added: also by chance."""
    frozen = jadam.freeze(jadam.match("low/**"))
    for storage in ("stochastic", "kahan"):
        tx = jadam.with_precision(jadam.chain(jadam.adam(1e-2), frozen), params=storage)
        for by in ("step", "update"):
            params, state = run(tx, PARAMS, GRADS, by)
            chex.assert_trees_all_equal(params["low"], LOW)
            assert_differ(params["half"], PARAMS["half"])
            assert not np.any(state.slots["kahan"]["compensation"]["low"]["w"] if storage == "kahan" else 0)


def test_masked():
    """Only what the mask chooses is stored otherwise, and only there it lands."""
    inner = jadam.with_precision(jadam.adamw(1e-2), state="int8", params="kahan", min_size=0, rounding="nearest")
    tx = jadam.masked(inner, jadam.match("low/**"))
    params, state = run(tx, PARAMS, GRADS)
    alone, own = run(inner, LOW, LOWS)
    chex.assert_trees_all_equal(params["low"], alone)
    assert own.slots["adam"]["mu"]["w"].dtype == jnp.int8
    chex.assert_trees_all_equal(state.slots["adam"]["mu"]["low"]["w"], own.slots["adam"]["mu"]["w"])
    assert state.slots["kahan"]["compensation"]["half"] is None
    updates, _ = tx.update(GRADS[0], tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["half"], GRADS[0]["half"])


def test_schedules_and_numbers_in_the_state():
    rising = jadam.linear_schedule(0.0, 2.0**-6, 4)  # exact, however it is compiled
    for storage in LANDED:
        scheduled = jadam.with_precision(jadam.adamw(rising), params=storage, state="bfloat16", min_size=0)
        params, state = run(scheduled, LOW, LOWS)
        number = jadam.with_precision(jadam.adamw(1.0), params=storage, state="bfloat16", min_size=0)
        by_hand, set_state = LOW, number.init(LOW)
        for count, g in enumerate(LOWS):
            set_state = number.set_hyperparams(set_state, learning_rate=float(rising(jnp.int32(count))))
            by_hand, set_state = number.step(g, set_state, by_hand)
        chex.assert_trees_all_equal((params, state.slots), (by_hand, set_state.slots))
        assert jadam.hyperparams(state)["learning_rate"] == 2.0**-7


@pytest.mark.parametrize("storage", LANDED)
def test_as_a_transformation_of_optax(storage):
    """Around a whole chain of jadam, alone in `optax.chain`, under its `apply_updates` and `MultiSteps`."""
    tx = jadam.with_precision(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-2)), params=storage)
    params, grads = {"w": 2 + LOW["w"] / 8}, [{"w": g["w"]} for g in LOWS]
    expected, _ = run(tx, params, grads)
    with jax.numpy_dtype_promotion("standard"):
        theirs, several = optax.chain(tx, optax.identity()), optax.MultiSteps(tx, 1)
        for other in (theirs, several):
            found, state = params, other.init(params)
            for g in grads:
                updates, state = other.update(g, state, found)
                found = optax.apply_updates(found, updates)
            chex.assert_trees_all_equal(found, expected)
    assert_differ(run(jadam.adamw(1e-2), params, grads)[0], expected)


def test_the_inner_storage_wins():
    inner = jadam.with_precision(jadam.adamw(1e-2), state={"mu": "bfloat16"}, params="kahan", min_size=0)
    outer = jadam.with_precision(inner, state="int8", params="stochastic", min_size=0)
    state = outer.init(LOW)
    assert state.slots["adam"]["mu"]["w"].dtype == jnp.bfloat16
    assert state.slots["adam"]["nu"]["w"].dtype == jnp.int8
    assert state.slots["kahan"]["compensation"]["w"].shape == (6, 40)
    plain = jadam.with_precision(inner, state={"nu": "int8"}, min_size=0)
    chex.assert_trees_all_equal(run(outer, LOW, LOWS)[0], run(plain, LOW, LOWS)[0])
    kept32 = jadam.with_precision(jadam.with_precision(jadam.adamw(1e-2), state="float32"), state="int8", min_size=0)
    assert kept32.init(LOW).slots["adam"]["mu"]["w"].dtype == jnp.float32


@pytest.mark.parametrize("storage", LANDED)
def test_what_follows_in_a_chain_lands_too(storage):
    """The parameter lands once, after the last rule, wherever in the chain its storage is said."""
    first, more = jadam.scale_by_adam(), jadam.chain(jadam.add_decayed_weights(0.1), jadam.scale_by_learning_rate(1e-3))
    early = jadam.chain(jadam.with_precision(first, params=storage), more)
    late = jadam.with_precision(jadam.chain(first, more), params=storage)
    for by in ("step", "update"):
        one, other = run(early, LOW, LOWS, by), run(late, LOW, LOWS, by)
        chex.assert_trees_all_equal((one[0], one[1].slots), (other[0], other[1].slots))
    assert_differ(one[0], run(jadam.chain(first, more), LOW, LOWS)[0])


# What is stored how


def test_small_slots_stay_float32():
    params = {"large": jnp.ones((64, 64)), "small": jnp.ones((63, 65)), "short": jnp.ones((1366, 3, 3)), "scalar": jnp.ones(())}
    slots = jadam.with_precision(jadam.adam(1e-3), state="int8").init(params).slots["adam"]["mu"]
    assert slots["large"].dtype == jnp.int8
    assert slots["small"].dtype == slots["short"].dtype == slots["scalar"].dtype == jnp.float32
    slots = jadam.with_precision(jadam.adam(1e-3), state="int8", min_size=0).init(params).slots["adam"]
    slots, scales = slots["mu"], slots["mu.scales"]
    assert slots["small"].dtype == jnp.int8
    assert slots["small"].shape == (63, 65)
    assert scales["small"].shape == (2, 65)
    assert scales["short"] is scales["scalar"] is None
    assert slots["short"].dtype == slots["scalar"].dtype == jnp.float32
    slots = jadam.with_precision(jadam.adam(1e-3), state="bfloat16", min_size=0).init(params).slots["adam"]["mu"]
    assert dtypes(slots) == {"bfloat16"}


FREE = [jadam.schedule_free_adamw(1e-3), jadam.schedule_free(jadam.sgd(1e-3, momentum=0.9))]


@pytest.mark.parametrize(("tx", "copies"), [*((tx, ["z", "x"]) for tx in FREE), (jadam.prodigy(1.0), ["p0"])])
def test_copies_of_parameters_change_only_by_name(tx, copies):
    """An average may be rough; a position in 8 bits is not where the model was."""
    params = {"w": jnp.asarray(spread(8, 64))}

    def stored(**state):
        slots = jadam.with_precision(tx, **state, min_size=0).init(params).slots
        return {slot: tree["w"] for own in slots.values() for slot, tree in own.items()}

    found = stored(state="int8")
    assert {slot for slot, x in found.items() if x.dtype == jnp.float32 and not slot.endswith(".scales")} == set(copies)
    assert all(found[slot].dtype == jnp.float32 for slot in copies)
    for slot in copies:
        assert {name for name, x in stored(state={slot: "int8"}).items() if x.dtype == jnp.int8} == {slot}
        assert {name for name, x in stored(state={slot: "bfloat16"}).items() if x.dtype == jnp.bfloat16} == {slot}


def test_averages_of_schedule_free_can_be_read_from_any_storage():
    params = {"w": jnp.asarray(spread(8, 64))}
    for storage, bound in {"bfloat16": 2.0**-8, "int8": 1.02 / 32}.items():
        tx = jadam.with_precision(jadam.schedule_free_adamw(1e-3), state={"x": storage}, min_size=0)
        x = jadam.schedule_free_params(tx.init(params), params)["w"]
        assert x.dtype == jnp.float32
        assert 0 < np.abs(x - params["w"]).max() <= bound * np.abs(params["w"]).max()


@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])
def test_bytes_a_parameter(state):
    params = {"w": jnp.ones((256, 512)), "v": jnp.ones((8192,))}
    tx = jadam.with_precision(jadam.adamw(1e-3), state=state)
    size = slot_bytes(tx, params) / (256 * 512 + 8192)
    assert size == {"float32": 8, "bfloat16": 4, "int8": 2.25}[state]
    assert f"{2 * 256 * 512 * size / 2:,.0f}" in jadam.describe(tx, params)
    assert jadam.describe(tx, params).endswith(f"{size:.2f} a parameter")


def test_bytes_of_short_axes_and_beside_a_parameter():
    tx = jadam.with_precision(jadam.lion(1e-3), state="int8", min_size=0)
    for shape, size in (
        ((8, 3), 4),
        ((8, 4), 2),
        ((8, 32), 1.125),
        ((32, 3), 1.125),
        ((64, 64), 1.125),
        ((3,), 4),
        ((32,), 1.125),
    ):
        assert slot_bytes(tx, {"w": jnp.ones(shape)}) == size * math.prod(shape)
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    for storage, size in {"nearest": 0, "stochastic": 0, "kahan": 2, "remainder": 2}.items():
        tx = jadam.with_precision(jadam.sgd(1e-3), params=storage)
        assert slot_bytes(tx, params) == size * 4096
        assert f"  {size * 4096:,}\n" in jadam.describe(tx, params)


STORAGES = "must be one of float32, bfloat16, int8."


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"state": "int4"}, f"(state='int4'): 'int4' {STORAGES}"),
        ({"state": {"mu": "int4"}}, f"(state={{'mu': 'int4'}}): 'int4' {STORAGES}"),
        ({"params": "exact"}, "(params='exact'): 'exact' must be one of nearest, stochastic, kahan, remainder."),
        ({"seed": 0.5}, "(seed=0.5): seed must be an integer."),
        ({"rounding": "up"}, "(rounding='up'): 'up' must be one of stochastic, nearest."),
        *(({"state": {name: "int8"}}, f": no rule keeps {name!r}; there are mu, nu.") for name in ("", "m")),
        *(({"min_size": n}, f"(min_size={n}): min_size must be an integer >= 0.") for n in (True, -1, 4096.0)),
    ],
)
def test_wrong_arguments(kwargs, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        jadam.with_precision(jadam.adamw(1e-3), **kwargs)
    assert str(error.value) == f"with_precision{words}"


def test_no_slots_to_store_and_foreign_ones():
    with pytest.raises(ValueError, match=r"^with_precision: no rule keeps 'mu'; there are no slots\.$"):
        jadam.with_precision(jadam.sgd(1e-3), state={"mu": "int8"})
    assert jadam.with_precision(jadam.sgd(1e-3), state="int8").init(PARAMS).slots == {}
    with pytest.raises(ValueError, match=r"come from elsewhere; use an optimizer of jadam"):
        jadam.with_precision(jadam.chain(optax.adam(1e-3)), state="int8")
    with pytest.raises(TypeError, match=r"with_precision: a GradientTransformationExtraArgs is not a jadam transformation"):
        jadam.with_precision(optax.adam(1e-3), state="int8")


def test_a_state_of_another_storage():
    """Wherever shapes or names tell it, the error says what the state has and what the transformation keeps."""
    params = {"w": jnp.ones((8, 64), jnp.bfloat16)}
    make = functools.partial(jadam.with_precision, jadam.adamw(1e-3), min_size=0)
    blocks, plain = make(state="int8"), make(state="float32")
    words = (
        r"^with_precision\.update: the state does not fit the parameter at w: scale_by_adam keeps mu float32\[8,64\], "
        r"nu float32\[8,64\], and the state has mu int8\[8,64\], mu.scales float32\[8,2\], nu int8\[8,64\], nu.scales"
    )
    with pytest.raises(ValueError, match=words):
        plain.update(params, blocks.init(params), params)
    kahan, remainder = make(params="kahan"), make(params="remainder")
    for tx, other in ((kahan, remainder), (plain, kahan)):
        with pytest.raises(ValueError, match=r"^with_precision\.step: the state belongs to another transformation: it is of"):
            tx.step(params, other.init(params), params)
    for tx, name in ((kahan, "kahan"), (remainder, "remainder")):
        words = rf"^with_precision\.step: the state does not fit the parameter at w: with_precision\(params='{name}'\) keeps"
        with pytest.raises(ValueError, match=words):
            tx.step(params, plain.init(params), params)
    with pytest.raises(ValueError, match=r"needs the parameters; call update\(grads, state, params\)\."):
        kahan.update(params, kahan.init(params))


def test_parameters_must_be_given_in_their_dtype():
    """What is kept beside them silently vanished from the state where gradients or parameters were float32."""
    low, full = {"w": jnp.ones((4, 4), jnp.bfloat16)}, {"w": jnp.ones((4, 4))}
    for storage in LANDED:
        tx = jadam.with_precision(jadam.adam(1e-4), params=storage)
        words = rf"params='{storage}'\) needs the parameters; call update\(grads, state, params\)"
        with pytest.raises(ValueError, match=words):
            tx.update(full, tx.init(low))
        if storage != "stochastic":
            words = r"does not fit the parameter at w: .* keeps nothing, and"
            with pytest.raises(ValueError, match=words):
                tx.update(full, tx.init(low), full)


def test_slots_that_begin_with_ones_are_no_copies():
    """A parameter of 1.0 made them look like copies of it, and they stayed float32."""
    tx = jadam.with_precision(jadam.adagrad(1e-2, initial_accumulator_value=1.0), state="bfloat16", min_size=0)
    assert tx.init({"w": jnp.ones((8, 8))}).slots["rss"]["sum_of_squares"]["w"].dtype == jnp.bfloat16


# What check_precision says


def test_steps_that_a_weight_does_not_resolve():
    """Steps of 1e-4 leave a bfloat16 of 1.0 where it is, and move one of 0.001; kahan, float32 and small weights take them."""
    params = {"one": jnp.ones(8, jnp.bfloat16), "small": jnp.full(8, 1e-3, jnp.bfloat16), "full": jnp.ones(8)}
    tx = jadam.adam(1e-4)
    [words] = jadam.check_precision(tx, params, 1e-4)
    assert words.startswith("one: steps of 0.0001 move 0% of its elements, which are bfloat16 rounded to nearest")
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    moved = jax.tree.map(lambda p, q: bool((p != q).all()), params, jadam.apply_updates(params, updates))
    assert moved == {"one": False, "small": True, "full": True}  # as it said
    assert jadam.check_precision(tx, params, 1e-2) == []
    assert jadam.check_precision(jadam.with_precision(tx, params="kahan"), params, 1e-4) == []
    assert len(jadam.check_precision(jadam.with_precision(tx, params="nearest"), params, 1e-4)) == 1
    assert jadam.check_precision(tx, {"half": jnp.ones(3, jnp.float16)}, 1e-4) != []
    schedule = jadam.warmup_cosine_decay_schedule(0.0, 1e-4, 10, 100)
    assert jadam.check_precision(tx, params, schedule) == [words]
    with pytest.raises(ValueError, match="a schedule with such a peak_value"):
        jadam.check_precision(tx, params, lambda count: 1e-4)


def test_each_group_is_judged_by_its_own_rate():
    """Frozen weights do not move, and need not; a group is judged by its own learning rate."""
    params = {"a": jnp.ones(8, jnp.bfloat16), "b": jnp.ones(8)}

    def groups(tx):
        return jadam.partition([(jadam.match("a"), tx), (True, jadam.adam(0.3))])

    assert jadam.check_precision(groups(jadam.freeze()), params) == []
    assert jadam.check_precision(groups(jadam.freeze()), params, 1e-5) == []
    [words] = jadam.check_precision(groups(jadam.adam(1e-5)), params)
    assert words.startswith("a: steps of 1e-05 move 0%")
    assert jadam.check_precision(jadam.adam(1e-4), {"h": jnp.ones(3, jnp.float16)})[0].endswith("'stochastic' or 'kahan'.")
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="must be a finite number >= 0"):
            jadam.check_precision(jadam.adam(1e-4), params, wrong)
    with pytest.raises(TypeError, match="check_precision: a GradientTransformationExtraArgs is not a jadam transformation"):
        jadam.check_precision(optax.adam(1e-4), params)


def test_describe_warns_too():
    params = {"one": jnp.ones(8, jnp.bfloat16), "two": jnp.ones(8, jnp.bfloat16)}
    text = jadam.describe(jadam.adam(1e-4), params)
    assert "\none: steps of 0.0001 move 0% of its elements" in text
    assert text.endswith("... and 1 more: see check_precision")
    assert "steps of" not in jadam.describe(jadam.with_precision(jadam.adam(1e-4), params="stochastic"), params)
    assert "steps of" not in jadam.describe(jadam.adam(1e-4), jax.eval_shape(lambda: params))
