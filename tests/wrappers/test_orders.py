"""Wrappers in wrappers: which orders are the same, which are not, and why."""

import jax.numpy as jnp
import numpy as np
import pytest
from support import run

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 4)}
NAN = float("nan")
GOOD, BAD = [1.0] * 6, [1.0, 1.0, NAN, 1.0, 1.0, 1e6]
"""The sizes of gradients."""


def nested(names, tx, nonfinite="drop"):
    """The first name is the outermost."""
    wrappers = {
        "guard": lambda tx: jadam.guard(tx, warmup_steps=2),
        "accumulate": lambda tx: jadam.accumulate(tx, 2, nonfinite=nonfinite),
        "average": lambda tx: jadam.average(tx, "uniform"),
        "monitor": jadam.monitor,
    }
    for name in reversed(names):
        tx = wrappers[name](tx)
    return tx


def trained(names, sizes):
    rng = np.random.default_rng(0)
    grads = [{"w": jnp.asarray(size * rng.standard_normal(4), jnp.float32)} for size in sizes]
    return run(nested(names, jadam.adamw(0.1, weight_decay=0.1)), PARAMS, grads)


@pytest.mark.parametrize(
    ("one", "other", "sizes"),
    [
        (("guard", "accumulate", "average", "monitor"), ("monitor", "average", "accumulate", "guard"), GOOD),
        (("guard", "average"), ("average", "guard"), BAD),
        (("guard", "monitor"), ("monitor", "guard"), BAD),
        (("accumulate", "average"), ("average", "accumulate"), BAD),
        (("accumulate", "monitor"), ("monitor", "accumulate"), BAD),
    ],
    ids=lambda names: "-".join(map(str, names)),
)
def test_orders_that_train_alike(one, other, sizes):
    """To the bit: `average` and `monitor` only look on, and `guard` changes no step that it does not skip."""
    params = trained(one, sizes)[0]["w"]
    np.testing.assert_array_equal(params, trained(other, sizes)[0]["w"])
    assert jnp.isfinite(params).all()
    assert (params != PARAMS["w"]).all()


def test_average_and_monitor_keep_the_same_in_both_orders():
    (params, one), (same, other) = (trained(names, GOOD) for names in (("average", "monitor"), ("monitor", "average")))
    np.testing.assert_array_equal(params["w"], same["w"])
    np.testing.assert_array_equal(jadam.averaged_params(one, params)["w"], jadam.averaged_params(other, params)["w"])
    found, others = jadam.metrics(one), jadam.metrics(other)
    for name in ("grad_norm", "update_norm", "param_norm"):
        assert found[name] == pytest.approx(others[name], rel=1e-6)
        assert found[name] > 0


def line(names, gradients, **options):
    """SGD of rate 1 on one parameter, from 0."""
    return run(nested(names, jadam.sgd(1.0), **options), {"w": jnp.zeros(())}, [{"w": jnp.float32(-g)} for g in gradients])


def averaged(names, gradients):
    params, state = line(names, gradients)
    return float(params["w"]), float(jadam.averaged_params(state, params)["w"])


def test_an_average_counts_the_steps_that_reach_it():
    """Around `guard` and `accumulate` it counts parameters again that did not move; inside, each step once."""
    assert averaged(["average", "guard"], [1, NAN, 1]) == (2, pytest.approx((1 + 1 + 2) / 3))
    assert averaged(["guard", "average"], [1, NAN, 1]) == (2, (1 + 2) / 2)
    assert averaged(["average", "accumulate"], [1, 1, 1, 1]) == (2, (0 + 1 + 1 + 2) / 4)
    assert averaged(["accumulate", "average"], [1, 1, 1, 1]) == (2, (1 + 2) / 2)


def monitored(names, gradients):
    found = jadam.metrics(line(names, gradients)[1])
    return found["grad_norm"], found["update_norm"]


def test_a_monitor_sees_what_reaches_it():
    """Around, every gradient, that of a step that is skipped or waits too; inside, those that make a step."""
    assert np.isnan(monitored(["monitor", "guard"], [2, NAN])[0])
    assert monitored(["guard", "monitor"], [2, NAN]) == (2, 2)
    assert monitored(["monitor", "accumulate"], [1, 3, 5]) == (5, 0)
    assert monitored(["accumulate", "monitor"], [1, 3, 5]) == (2, 2)


def test_a_guard_judges_micro_batches_or_their_mean():
    """Around `accumulate` it throws one micro-batch away, and the window waits for another; inside, the whole window."""
    given = [1, NAN, 3]
    assert line(["guard", "accumulate"], given, nonfinite="keep")[0]["w"] == (1 + 3) / 2
    assert line(["accumulate", "guard"], given, nonfinite="keep")[0]["w"] == 0
    assert line(["accumulate", "guard"], given)[0]["w"] == 1  # the window drops it by itself
