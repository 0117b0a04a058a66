"""Of gradients of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jadam
from jadam import Rows
from wrong_calls import PAIR

PARAMS = {"table": jnp.zeros((40, 3)), "w": jnp.zeros(3)}
LAZY = jadam.lazy(jadam.adam(1.0), catch_up=True)
UNKNOWN = "would have done in the steps that a row missed is not known; use adamw, lion or sgd."
IDS = jnp.array([1, 4])
ROWS = Rows(IDS, jnp.ones((2, 3)))
IS_ROWS = "the gradient at table is Rows, and"
DENSE = "pass the gradient of the whole table, or put the table into a group of its own: jadam.partition([(mask, tx), ...])."
CHANGED = (
    "ids are float32 now: a function of all arrays of a tree changed them with the values; give it is_leaf=lambda x: "
    "isinstance(x, jadam.Rows), and transformations of others only the updates of whole tables."
)
NO_PARAMETER = (
    "is Rows, which stand for the gradient of a table and not for a parameter; call init(params), and update(grads, state, "
    "params) with the parameters."
)


def window(tx=jadam.adam(1.0)):  # noqa: B008 (it never changes)
    return jadam.accumulate(tx, 2, rows=[(jadam.match("table"), 8)])


def step(tx, rows=ROWS, params=PARAMS, **extra):
    return tx.step({"table": rows, "w": jnp.ones(3)}, tx.init(params), params, **extra)


def changed(ids=ROWS.ids, values=ROWS.values):
    """As a function of all leaves of a tree may have made them."""
    return jax.tree.unflatten(jax.tree.structure(ROWS), (ids, ~ids if ids.dtype == "int32" else -ids, values))


CALLS = {
    # what Rows are made of
    "Rows: ids must be integers, not float32.": lambda: Rows(jnp.ones(2), jnp.ones((2, 3))),
    "Rows: ids must be integers, not bool.": lambda: Rows(jnp.ones(2, bool), jnp.ones((2, 3))),
    "Rows(ids='a'): ids must be an array.": lambda: Rows("a", jnp.ones((2, 3))),
    "Rows: ids has -2; rows count from 0, and padding is past the end of the table.": lambda: Rows(
        np.array([3, -2]), jnp.ones((2, 3))
    ),
    "Rows: ids are 2, and values have the shape (3, 3): one value for each id.": lambda: Rows(IDS, jnp.ones((3, 3))),
    "Rows: ids are 2, and values have the shape (): one value for each id.": lambda: Rows(IDS, 1.0),
    "Rows: ids must have one axis, not the shape (2, 2); write ids.reshape(-1), and values alike.": lambda: Rows(
        jnp.ones((2, 2), "int32"), jnp.ones((2, 2, 3))
    ),
    "Rows: distinct=True is for ids that are sorted, each once, as unique_rows returns them; leave it out.": lambda: Rows(
        jnp.array([1, 4, 4]), jnp.ones((3, 3)), distinct=True
    ),
    "Rows: they can be multiplied by a number, not by an array of shape (2,).": lambda: ROWS * jnp.ones(2),
    "unique_rows: ids must be integers, not float32.": lambda: jadam.unique_rows(jnp.ones(2), rows=5),
    "unique_rows: ids has -1; rows count from 0, and padding is past the end of the table.": lambda: jadam.unique_rows(
        jnp.array([-1]), rows=5
    ),
    "unique_rows: there are 2 distinct ids, and the size is 1; give it a larger size.": lambda: jadam.unique_rows(
        IDS, rows=5, size=1
    ),
    "unique_rows(rows=0): rows must be an integer >= 1.": lambda: jadam.unique_rows(IDS, rows=0),
    "unique_rows(rows=True): rows must be an integer >= 1.": lambda: jadam.unique_rows(IDS, rows=True),
    "unique_rows(size=2.0): size must be an integer >= 1.": lambda: jadam.unique_rows(IDS, rows=5, size=2.0),
    # in a step
    f"adam.init: table {NO_PARAMETER}": lambda: jadam.adam(1.0).init({"table": ROWS}),
    f"adam.update: table {NO_PARAMETER}": lambda: jadam.adam(1.0).update({"table": ROWS}, jadam.adam(1.0).init(PARAMS)),
    "adam.step: the gradient at table is Rows of shape (2,), the rows of its parameter have (3,).": lambda: step(
        jadam.adam(1.0), Rows(IDS, jnp.ones((2, 2)))
    ),
    "adam.step: the gradient at w is Rows, and its parameter has no rows: it is a scalar.": lambda: jadam.adam(1.0).step(
        {"w": ROWS}, jadam.adam(1.0).init({"w": jnp.ones(())}), {"w": jnp.ones(())}
    ),
    f"adam.step: the gradient at table is Rows, and its {CHANGED}": lambda: step(jadam.adam(1.0), changed(ids=jnp.ones(2))),
    "adam.step: the gradient at table is Rows, and its ids are 2, and values have the shape (1, 3): one value for each id.": (
        lambda: step(jadam.adam(1.0), changed(values=jnp.ones((1, 3))))
    ),
    "adam.step: the gradient at table has dtype complex64, its parameter float32; give a floating-point gradient, complex "
    "where the parameter is.": lambda: step(jadam.adam(1.0), Rows(IDS, jnp.ones((2, 3), "complex64"))),
    "apply_updates: the update at table is Rows of shape (2,), its parameter (40, 3).": lambda: jadam.apply_updates(
        PARAMS, {"table": Rows(IDS, jnp.ones((2, 2))), "w": None}
    ),
    f"apply_updates: the update at table is Rows, and its {CHANGED}": lambda: jadam.apply_updates(
        PARAMS, {"table": changed(ids=jnp.ones(2)), "w": None}
    ),
    f"Rows: their {CHANGED}": lambda: optax.apply_updates(
        PARAMS["table"], jax.tree.map(lambda x: -0.1 * x.astype("float32"), ROWS)
    ),
    "apply_updates: the update at table has dtype complex64, its parameter float32.": lambda: jadam.apply_updates(
        PARAMS, {"table": Rows(IDS, jnp.ones((2, 3), "complex64")), "w": None}
    ),
    # what needs every row
    f"partition.step: {IS_ROWS} orthogonalize mixes the elements of a parameter; {DENSE}": lambda: step(
        jadam.partition([(jadam.match("w"), jadam.sgd(1.0)), (True, jadam.muon(1.0, matrices=True))])
    ),
    f"lamb.step: {IS_ROWS} scale_by_trust_ratio mixes the elements of a parameter; {DENSE}": lambda: step(jadam.lamb(1.0)),
    f"prodigy.step: {IS_ROWS} scale_by_prodigy reads whole parameters; {DENSE}": lambda: step(jadam.prodigy()),
    f"accumulate.step: {IS_ROWS} accumulate has to know for how many rows of it a window has room; write accumulate(tx, every, "
    "rows=[(mask, number)]).": lambda: step(jadam.accumulate(jadam.adam(1.0), 2)),
    "accumulate.step: the gradient at table is a whole array, and accumulate collects rows of it; pass Rows, or leave table "
    "out of rows=.": lambda: window().step(PARAMS, window().init(PARAMS), PARAMS),
    "accumulate.init: w has the shape (3,), and accumulate room for 8 rows: the whole gradient takes no more; leave it out of "
    "rows=.": lambda: jadam.accumulate(jadam.adam(1.0), 2, rows=8).init(PARAMS),
    "accumulate.init: accumulate collects rows of table inside another; write one for both.": lambda: window(window()).init(
        PARAMS
    ),
    "chain.init: scale follows guard, which makes its steps on the rows of several gradients; put it inside.": lambda: (
        jadam.chain(jadam.guard(window()), jadam.scale(-1.0)).init(PARAMS)
    ),
    "accumulate(rows=0): rows must be an integer >= 1, or a list [(mask, number), ...] of such.": lambda: jadam.accumulate(
        jadam.adam(1.0), 2, rows=0
    ),
    "accumulate(rows='table'): rows must be a number of rows, or a list [(mask, number), ...].": lambda: jadam.accumulate(
        jadam.adam(1.0), 2, rows="table"
    ),
    f"average.step: {IS_ROWS} average averages every row at every step, and not those alone that a batch touches; mask the "
    "table out of it.": lambda: step(jadam.average(jadam.adam(1.0))),
    f"lookahead.step: {IS_ROWS} lookahead brings every row back at the end of a period, and not those alone that a batch "
    f"touches; {DENSE}": lambda: step(jadam.lookahead(jadam.adam(1.0), 5, 0.5)),
    f"sam.step: {IS_ROWS} sam reads whole parameters; {DENSE}": lambda: step(jadam.sam(jadam.adam(1.0)), grad_fn=lambda p: p),
    f"chain.step: {IS_ROWS} <lambda>(...) is not of jadam, and expects whole arrays; {DENSE}": lambda: step(
        jadam.chain(PAIR, jadam.sgd(1.0))
    ),
    f"chain.step: {IS_ROWS} scale_by_adam(...) is not of jadam, and expects whole arrays; {DENSE}": lambda: step(
        jadam.chain(optax.scale_by_adam(), jadam.sgd(1.0))
    ),
    f"with_precision.step: {IS_ROWS} mu of scale_by_adam is stored in 8 bits, in blocks of 32 rows; keep the state of tables "
    "in a group of their own: with_precision(tx, state='bfloat16').": lambda: step(
        jadam.with_precision(jadam.adam(1.0), state="int8", min_size=1)
    ),
    # what cannot catch up
    "lazy(catch_up=1): catch_up must be True or False.": lambda: jadam.lazy(jadam.adam(1.0), catch_up=1),
    f"lazy: what scale_by_amsgrad {UNKNOWN}": lambda: jadam.lazy(jadam.amsgrad(1.0), catch_up=True),
    f"lazy: what scale_by_muon {UNKNOWN}": lambda: jadam.lazy(jadam.muon(1.0), catch_up=True),
    "lazy: guard cannot be inside; put it around: guard(lazy(tx, catch_up=True)).": lambda: jadam.lazy(
        jadam.guard(jadam.adam(1.0)), catch_up=True
    ),
    "lazy.update: lazy needs the parameters; call update(grads, state, params), not update(grads, state).": lambda: LAZY.update(
        PARAMS, LAZY.init(PARAMS)
    ),
    "lazy.step: lazy cannot sum up the steps of trace, which averages what other rules of lazy make of nothing; put them after "
    "it, or outside.": lambda: step(jadam.lazy(jadam.sgd(1.0, momentum=0.9, weight_decay=0.1), catch_up=True)),
    "lazy.step: lazy needs the steps of its rules in one, and something reads the updates of scale_by_learning_rate.": lambda: (
        step(jadam.lazy(jadam.chain(jadam.adam(1.0), jadam.clip_by_global_norm(1.0)), catch_up=True))
    ),
    "lazy.step: lazy cannot sum up the steps of clip; put it before the averages, or outside.": lambda: step(
        jadam.lazy(jadam.chain(jadam.adam(1.0), jadam.clip(1.0)), catch_up=True)
    ),
}
