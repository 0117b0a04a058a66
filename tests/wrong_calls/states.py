"""Of states and their hyperparameters."""

import jax
import jax.numpy as jnp

import jadam
from wrong_calls import BIAS, ONES, OTHER_STATE, PARAMS, STATE, TX

CALLS = {
    # states
    "sgd.update: the state belongs to another transformation: it is of adam, add_decayed_weights, learning_rate, this one of "
    "trace, learning_rate. Use the state that this transformation's init returned.": lambda: jadam.sgd(
        0.1, momentum=0.9
    ).update(PARAMS, STATE, PARAMS),
    "adamw.update: the state does not fit the parameter at w: scale_by_adam keeps mu of shape (3,), nu of shape (3,), "
    f"the state has mu of shape (1,), nu of shape (1,). {OTHER_STATE}": lambda: TX.update(
        {"w": ONES}, TX.init({"w": jnp.ones(1)}), {"w": ONES}
    ),
    "adamw.update: the state of adam has another structure than the parameters: it was made for other ones. Call init with "
    "these.": lambda: TX.update({"w": ONES}, STATE, {"w": ONES}),
    "adam.update: the state does not fit the parameter at dense/kernel: scale_by_adam keeps mu of shape (3, 1), nu of "
    f"shape (3, 1), the state has nothing. {OTHER_STATE}": lambda: jadam.adam(1.0).update(
        PARAMS, jadam.masked(jadam.adam(1.0), BIAS).init(PARAMS), PARAMS
    ),
    # hyperparameters of a state
    "adamw.set_hyperparams: the first argument is a tuple, not the state that init returned.": lambda: TX.set_hyperparams(
        (STATE,), learning_rate=1.0
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
}
