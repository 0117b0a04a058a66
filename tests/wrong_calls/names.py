"""Of the names of hyperparameters."""

import jadam
from wrong_calls import BIAS, PARAMS

SGD = jadam.sgd(1.0)
GROUPS = jadam.partition([(BIAS, SGD), (True, jadam.sgd(0.5, momentum=0.9), "body")])
NESTED = jadam.partition([(BIAS, GROUPS), (True, SGD)])
TWICE = jadam.chain(SGD, SGD, jadam.adam(1.0), jadam.scale_by_adam())
LABELS = jadam.partition({"a": SGD, "b_1": SGD}, {"dense": {"kernel": "a", "bias": "b_1"}})


def setting(tx, **values):
    return tx.set_hyperparams(tx.init(PARAMS), **values)


CALLS = {
    # names
    ("partition.set_hyperparams: there is no 'learning_rate'; there are 0.learning_rate, body.learning_rate."): lambda: setting(
        GROUPS, learning_rate=1.0
    ),
    (
        "partition.set_hyperparams: there is no '2.learning_rate'; there are 0.learning_rate, "
        "body.learning_rate, dampening, momentum."
    ): lambda: setting(GROUPS, **{"2.learning_rate": 1.0}),
    ("partition.set_hyperparams(body.learning_rate=inf): body.learning_rate must be a finite number."): lambda: setting(
        GROUPS, **{"body.learning_rate": float("inf")}
    ),
    "partition.set_hyperparams: there is no '0.learning_rate'; there are 0.0.learning_rate.": lambda: setting(
        NESTED, **{"0.learning_rate": 1.0}
    ),
    (
        "chain.set_hyperparams: there is no 'learning_rate'; there are learning_rate_0, learning_rate_1, learning_rate_2."
    ): lambda: setting(TWICE, learning_rate=1.0),
    "chain.set_hyperparams: there is no 'b2'; there are adam.b2, adam_1.b2.": lambda: setting(TWICE, b2=0.9),
    ("partition.set_hyperparams: there is no 'b.learning_rate'; there are a.learning_rate, b_1.learning_rate."): lambda: (
        setting(LABELS, **{"b.learning_rate": 1.0})
    ),
    "identity.set_hyperparams: there is no 'learning_rate'; there are none.": lambda: setting(
        jadam.identity(), learning_rate=1.0
    ),
    "hyperparams: a int has no state of jadam inside; pass what tx.init or tx.update returned.": lambda: jadam.hyperparams(5),
}
