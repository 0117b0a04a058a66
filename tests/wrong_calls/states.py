"""Of states and their hyperparameters."""

import jax
import jax.numpy as jnp
import numpy as np

import jadam
from wrong_calls import ADAM, BIAS, DIGITS, HUGE, ONES, OTHER_STATE, PARAMS, STATE, TX

PRODIGY = jadam.prodigy()
INT8 = jadam.with_precision(ADAM, "int8", min_size=0)
KAHAN = jadam.with_precision(ADAM, params="kahan")
LOSS_SCALE = jadam.loss_scale(ADAM)
PAIR = jadam.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))
W, LOW = {"w": jnp.ones((8, 64))}, {"w": jnp.ones(3, jnp.bfloat16)}
FIT = "the state does not fit the parameter at"
ADAM_KEEPS = f"{FIT} w: scale_by_adam keeps mu float32[3], nu float32[3], and the state has"
KAHAN_KEEPS = f"{FIT} w: with_precision(params='kahan') keeps compensation bfloat16[3], and the state has"
OTHER = "the state belongs to another transformation: it is of"
USE = "Use the state that this transformation's init returned."
ORDER = "the order is (grads, state, params)."
RETURNED = "not the state that init returned; pass what tx.init or tx.update returned."


def changed(tx=TX, params=PARAMS, **fields):
    """A step from a state with other fields."""
    return tx.update(params, tx.init(params)._replace(**fields), params)


def put(field, key, value, tx=TX):
    """A step from a state with another value in one of its dicts."""
    state = tx.init(PARAMS)
    return tx.update(PARAMS, state._replace(**{field: getattr(state, field) | {key: value}}), PARAMS)


def slots(change, tx=ADAM, params=None):
    """A step from a state with other arrays in its slots."""
    params = {"w": ONES} if params is None else params
    state = tx.init(params)
    return tx.update(params, state._replace(slots=jax.tree.map(change, state.slots)), params)


CALLS = {
    # of another transformation
    f"sgd.update: {OTHER} adam, add_decayed_weights, learning_rate, this one of trace, learning_rate. {USE}": lambda: jadam.sgd(
        0.1, momentum=0.9
    ).update(PARAMS, STATE, PARAMS),
    f"chain.update: {OTHER} adam, learning_rate, this one of <lambda>, adam, learning_rate. {USE}": lambda: jadam.chain(
        PAIR, ADAM
    ).update(PARAMS, ADAM.init(PARAMS), PARAMS),
    f"adam.update: {OTHER} adam, learning_rate, loss_scale, this one of adam, learning_rate. {USE}": lambda: ADAM.update(
        PARAMS, LOSS_SCALE.init(PARAMS), PARAMS
    ),
    f"with_precision.update: {OTHER} adam, kahan, learning_rate, this one of adam, learning_rate. {USE}": lambda: (
        jadam.with_precision(ADAM, "float32").update(LOW, KAHAN.init(LOW), LOW)
    ),
    "adamw.set_hyperparams: the state belongs to another transformation: only one of the two has "
    "add_decayed_weights.weight_decay.": lambda: TX.set_hyperparams(ADAM.init(PARAMS), learning_rate=1.0),
    # not a state
    f"adamw.update: the second argument is a dict, not the state that init returned; {ORDER}": lambda: TX.update(
        PARAMS, PARAMS, STATE
    ),
    f"adamw.update: the second argument is a NoneType, not the state that init returned; {ORDER}": lambda: TX.update(
        PARAMS, None, PARAMS
    ),
    f"adamw.step: the second argument is a dict, not the state that init returned; {ORDER}": lambda: TX.step(
        STATE, PARAMS, PARAMS
    ),
    f"adamw.set_hyperparams: the first argument is a tuple, {RETURNED}": lambda: TX.set_hyperparams(
        (STATE,), learning_rate=1.0
    ),
    f"adamw.set_hyperparams: the first argument is a dict, {RETURNED}": lambda: TX.set_hyperparams(PARAMS, learning_rate=1.0),
    "hyperparams: a dict has no state of jadam inside; pass what tx.init or tx.update returned.": lambda: jadam.hyperparams(
        PARAMS
    ),
    "hyperparams: a GradientTransformation has no state of jadam inside; pass what tx.init or tx.update returned.": lambda: (
        jadam.hyperparams(TX)
    ),
    "hyperparams: a NoneType has no state of jadam inside; pass what tx.init or tx.update returned.": lambda: jadam.hyperparams(
        None
    ),
    "has_updated: the state has no windows of micro-batches; it must be of one `accumulate`.": lambda: jadam.has_updated(
        ADAM.init(PARAMS)
    ),
    "has_updated: the state has 2 windows of micro-batches; it must be of one `accumulate`.": lambda: jadam.has_updated(
        jadam.accumulate(jadam.accumulate(ADAM, 2), 2).init(PARAMS)
    ),
    f"flush: {OTHER} adam, learning_rate, this one of accumulate, adam, learning_rate. {USE}": lambda: jadam.flush(
        jadam.accumulate(ADAM, 2), ADAM.init(PARAMS), PARAMS
    ),
    "current_loss_scale: the state has no loss scales; it must be of one `loss_scale`.": lambda: jadam.current_loss_scale(
        STATE
    ),
    "current_loss_scale: the state has 2 loss scales; it must be of one `loss_scale`.": lambda: jadam.current_loss_scale(
        [LOSS_SCALE.init(PARAMS)] * 2
    ),
    # fields
    "adamw.update: count of the state is float32[], where init returns int32[].": lambda: changed(count=jnp.ones(())),
    "adamw.update: count of the state is int32[3], where init returns int32[]. For the states of many models, put jax.vmap "
    "around the call.": lambda: changed(count=jnp.zeros(3, jnp.int32)),
    "adamw.update: count of the state is None, where init returns int32[].": lambda: changed(count=None),
    "adamw.update: the count of the state is -5, and not the number of updates done.": lambda: changed(count=-5),
    "adamw.step: the count of the state is -1, and not the number of updates done.": lambda: TX.step(
        PARAMS, STATE._replace(count=np.int32(-1)), PARAMS
    ),
    "adamw.update: the slots of the state are None, and not a dict.": lambda: changed(slots=None),
    "adamw.update: the hyperparams of the state are [], and not a dict.": lambda: changed(hyperparams=[]),
    "adamw.update: the scalars of the state are 3, and not a dict.": lambda: changed(scalars=3),
    "adamw.update: hyperparams['learning_rate'] of the state is float32[3], where init returns float32[]. For the states of "
    "many models, put jax.vmap around the call.": lambda: put("hyperparams", "learning_rate", ONES),
    "adamw.update(adam.one_minus_b2=nan): adam.one_minus_b2 must be in [0, 1).": lambda: put(
        "hyperparams", "adam.one_minus_b2", np.float32("nan")
    ),
    "adamw.update: given['learning_rate.given'] of the state is int32[], where init returns float32[].": lambda: put(
        "given", "learning_rate.given", jnp.ones((), jnp.int32)
    ),
    f"prodigy.update: {OTHER} learning_rate, prodigy, this one of prodigy, learning_rate. {USE}": lambda: changed(
        PRODIGY, scalars={}
    ),
    "prodigy.update: the state has the scalars ['d'] of prodigy, where init returns ['d', 'd_max', 'r', 'taken'].": lambda: (
        changed(PRODIGY, scalars={"prodigy": {"d": jnp.ones(())}})
    ),
    "loss_scale.update: scalars['loss_scale']['scale'] of the state is bfloat16[], where init returns float32[].": lambda: put(
        "scalars",
        "loss_scale",
        LOSS_SCALE.init(PARAMS).scalars["loss_scale"] | {"scale": jnp.ones((), jnp.bfloat16)},
        LOSS_SCALE,
    ),
    # slots
    f"adamw.update: {ADAM_KEEPS} mu float32[1], nu float32[1]. {OTHER_STATE}": lambda: TX.update(
        {"w": ONES}, TX.init({"w": jnp.ones(1)}), {"w": ONES}
    ),
    "adamw.update: the state of adam has another structure than the parameters: it was made for other ones. Call init with "
    "these.": lambda: TX.update({"w": ONES}, STATE, {"w": ONES}),
    f"adam.update: {FIT} dense/kernel: scale_by_adam keeps mu float32[3,1], nu float32[3,1], and the state has nothing. "
    f"{OTHER_STATE}": lambda: ADAM.update(PARAMS, jadam.masked(ADAM, BIAS).init(PARAMS), PARAMS),
    f"adam.update: {ADAM_KEEPS} mu int32[3], nu int32[3]. {OTHER_STATE}": lambda: slots(lambda x: x.astype(jnp.int32)),
    f"adam.update: {ADAM_KEEPS} mu complex64[3], nu complex64[3]. {OTHER_STATE}": lambda: slots(
        lambda x: x.astype(jnp.complex64)
    ),
    f"adam.update: {ADAM_KEEPS} mu float32[], nu float32[]. {OTHER_STATE}": lambda: slots(jnp.sum),
    "adam.update: slots/adam/mu/w of the state is 'lost', which is not an array.": lambda: slots(lambda _: "lost"),
    f"adam.update: {ADAM_KEEPS} mu float32[3]. {OTHER_STATE}": lambda: changed(
        ADAM, {"w": ONES}, slots={"adam": {"mu": {"w": ONES}}}
    ),
    f"with_precision.update: {FIT} w: scale_by_adam keeps mu int8[8,64], mu.scales float32[8,2], nu int8[8,64], nu.scales "
    f"float32[8,2], and the state has mu float32[8,64], nu float32[8,64]. {OTHER_STATE}": lambda: INT8.update(
        W, ADAM.init(W), W
    ),
    f"adam.update: {FIT} w: scale_by_adam keeps mu float32[8,64], nu float32[8,64], and the state has mu int8[8,64], "
    f"mu.scales float32[8,2], nu int8[8,64], nu.scales float32[8,2]. {OTHER_STATE}": lambda: ADAM.update(W, INT8.init(W), W),
    f"with_precision.update: {KAHAN_KEEPS} nothing. {OTHER_STATE}": lambda: KAHAN.update(LOW, ADAM.init(LOW), LOW),
    f"with_precision.step: {KAHAN_KEEPS} compensation float32[3]. {OTHER_STATE}": lambda: KAHAN.step(
        LOW, KAHAN.init(LOW)._replace(slots=jax.tree.map(lambda x: x.astype(jnp.float32), KAHAN.init(LOW).slots)), LOW
    ),
    # hyperparameters of a state
    f"adamw.update: hyperparams/learning_rate of the state is {DIGITS}, which is not an array.": lambda: TX.update(
        PARAMS, STATE._replace(hyperparams=STATE.hyperparams | {"learning_rate": HUGE}), PARAMS
    ),
    f"adamw.update: given/learning_rate.given of the state is {DIGITS}, which is not an array.": lambda: TX.update(
        PARAMS, STATE._replace(given=STATE.given | {"learning_rate.given": HUGE}), PARAMS
    ),
    "adamw.set_hyperparams: there is no 'lr'; there are b1, b2, eps, eps_root, learning_rate, weight_decay.": lambda: (
        TX.set_hyperparams(STATE, lr=1.0)
    ),
    "adamw.set_hyperparams: learning_rate must be a number here; build the transformation with the schedule.": lambda: (
        TX.set_hyperparams(STATE, learning_rate=jadam.constant_schedule(1.0))
    ),
    "adamw.set_hyperparams(b1=1.0): b1 must be in [0, 1).": lambda: TX.set_hyperparams(STATE, b1=1.0),
    "sgd.set_hyperparams: learning_rate is driven by constant_schedule(value=1.0); build the transformation with a number to "
    "set it.": lambda: jadam.sgd(jadam.constant_schedule(1.0)).set_hyperparams(jadam.sgd(1.0).init(PARAMS), learning_rate=1.0),
    "adamw.set_hyperparams: learning_rate has shape (3,), in the state it has ().": lambda: TX.set_hyperparams(
        STATE, learning_rate=ONES
    ),
    "with_precision(state='int3'): 'int3' must be one of float32, bfloat16, int8.": lambda: jadam.with_precision(TX, "int3"),
    "with_precision: no rule keeps 'nux'; there are mu, nu.": lambda: jadam.with_precision(TX, {"nux": "bfloat16"}),
    "state_shardings: no parameter has a sharding; pass jax arrays, or ShapeDtypeStructs with one.": lambda: (
        jadam.state_shardings(TX, {"w": jax.ShapeDtypeStruct((2,), jnp.float32)})
    ),
    "state_shardings(data='data'): the parameters are on a single device; data must name axes of their mesh.": lambda: (
        jadam.state_shardings(TX, PARAMS, data="data")
    ),
    "state_shardings(data=['data']): data must be the name of an axis of the mesh, or a tuple of names.": lambda: (
        jadam.state_shardings(TX, PARAMS, data=["data"])  # pyright: ignore[reportArgumentType]
    ),
    "state_shardings(memory_kind='hbm'): memory_kind must be one of device, pinned_host, unpinned_host here.": lambda: (
        jadam.state_shardings(TX, PARAMS, memory_kind="hbm")
    ),
    "clip_by_global_norm(axis_name=0): axis_name must be the name of an axis of the mesh, or a tuple of names.": lambda: (
        jadam.clip_by_global_norm(1.0, axis_name=0)
    ),
}
