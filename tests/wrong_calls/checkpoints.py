"""Of states in files, states of other transformations, and states of torch."""

import jax
import jax.numpy as jnp
import numpy as np

import jadam
from wrong_calls import ADAM, DIGITS, HUGE, ONES, PARAMS, STATE, TX

SAVED = jadam.to_dict(STATE)
MIGRATE = "write jadam.migrate(saved, tx, params) for what has changed since it was saved."
DAMAGED = (
    "is not what was saved, by its checksum: the file was damaged or edited. Take an older one; to change a hyperparameter, "
    "load the state and call tx.set_hyperparams."
)
NOT_OURS = "is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) around it."
RETURNED = "not the state that init returned; pass what tx.init or tx.update returned."
PATHS = "dense/bias, dense/kernel"
MOMENTS = {"step": 5.0, "exp_avg": np.ones(3), "exp_avg_sq": np.ones(3)}
W = {"w": ONES}


def without(*names):
    return {other: x for other, x in SAVED.items() if other not in names}


def from_dict(saved, tx=TX, params=PARAMS):
    return jadam.from_dict(tx, params, saved)


def renamed(renamed):
    return jadam.migrate(STATE, TX, PARAMS, renamed=renamed)


def from_torch(entry=MOMENTS, names=("w",), tx=ADAM, params=W, **options):
    return jadam.from_torch(tx, params, {"state": {0: entry}}, names, **options)


CALLS = {
    "to_dict: the first argument is a dict, " + RETURNED: lambda: jadam.to_dict(PARAMS),
    "to_dict: 'count' is traced; call to_dict outside of jit.": lambda: jax.jit(jadam.to_dict)(STATE),
    f"to_dict: count is {DIGITS}, which is not an array.": lambda: jadam.to_dict(STATE._replace(count=HUGE)),
    "to_dict: slots/adam/mu/dense/bias is 'lost', which is not an array.": lambda: jadam.to_dict(
        STATE._replace(slots=jax.tree.map(lambda _: "lost", STATE.slots))
    ),
    # from_dict
    f"from_dict: a function {NOT_OURS}": lambda: from_dict(SAVED, tx=jadam.adam),
    "from_dict: 3 is not a dict of arrays by name; pass what to_dict returned, read from its file.": lambda: from_dict(3),
    "from_dict: 'format' is missing: this is not what to_dict returned, or not all of it.": lambda: from_dict({}),
    "from_dict: 'checksum' is missing: this is not what to_dict returned, or not all of it.": lambda: from_dict(
        without("checksum")
    ),
    "from_dict: 'count' is 5, which is not an array.": lambda: from_dict(SAVED | {"count": 5}),
    "from_dict: this is format 2, and this version of jadam reads 1; update jadam.": lambda: from_dict(
        SAVED | {"format": np.asarray(2)}
    ),
    # Which ones was not said: a file often has the parameters beside the state.
    "from_dict: there are 17 arrays, and 18 checksums: some are missing: 'count'.": lambda: from_dict(without("count")),
    "from_dict: there are 16 arrays, and 18 checksums: some are missing: 'slots/adam/mu/dense/kernel' (and 1 more).": lambda: (
        from_dict(without("slots/adam/mu/dense/kernel", "slots/adam/nu/dense/kernel"))
    ),
    "from_dict: there are 20 arrays, and 18 checksums: 'params/w' (and 1 more) is not of this state; pass what to_dict "
    "returned, and nothing else.": lambda: from_dict(SAVED | {"params/w": np.ones(3), "step": np.asarray(5)}),
    "migrate: there are 17 arrays, and 18 checksums: some are missing or too many.": lambda: jadam.migrate(
        without("count"), TX, PARAMS
    ),
    f"from_dict: 'count' {DAMAGED}": lambda: from_dict(SAVED | {"count": SAVED["count"] + 1}),
    "from_dict: the state is of another transformation or of other parameters: 'hyperparams/add_decayed_weights.weight_decay' "
    f"is of another (2 names in all); {MIGRATE}": lambda: from_dict(SAVED, tx=ADAM),
    "from_dict: the state is of another transformation or of other parameters: 'slots/adam/mu/w' is missing and "
    f"'slots/adam/mu/dense/bias' is of another (6 names in all); {MIGRATE}": lambda: from_dict(SAVED, params={"w": ONES}),
    f"from_dict: 'slots/adam/mu/w' is float32[3], and this transformation keeps float32[2]; {MIGRATE}": lambda: from_dict(
        jadam.to_dict(ADAM.init({"w": ONES})), ADAM, {"w": jnp.ones(2)}
    ),
    "from_dict: the state is of 2 models, and the parameter at w has shape (3,); pass the parameters of all models, stacked "
    "along the first axis as by jax.vmap.": lambda: from_dict(
        jadam.to_dict(jax.vmap(ADAM.init)({"w": jnp.ones((2, 3))})), ADAM, W
    ),
    "from_dict: the count of the state is -1, and not the number of updates done.": lambda: from_dict(
        jadam.to_dict(STATE._replace(count=np.int32(-1)))
    ),
    # migrate
    f"migrate: a NoneType {NOT_OURS}": lambda: jadam.migrate(STATE, None, PARAMS),
    "migrate: the first argument is a dict, " + RETURNED: lambda: jadam.migrate(PARAMS, TX, PARAMS),
    f"migrate: 'count' {DAMAGED}": lambda: jadam.migrate(SAVED | {"count": SAVED["count"] + 1}, TX, PARAMS),
    "migrate: the state is traced; call migrate outside of jit.": lambda: jax.jit(
        lambda state: jadam.migrate(state, TX, PARAMS)[0]
    )(STATE),
    "migrate: count of the state is float32[], where init returns int32[].": lambda: jadam.migrate(
        STATE._replace(count=jnp.zeros(())), TX, PARAMS
    ),
    "migrate: the state is of many models, as jax.vmap makes it; carry over one after another, and stack them: "
    "jadam.migrate(jax.tree.map(lambda x: x[0], state), tx, params). A dict must be read by from_dict first.": lambda: (
        jadam.migrate(STATE._replace(count=jnp.zeros(2, jnp.int32)), TX, PARAMS)
    ),
    f"migrate: renamed has 'conv', and the old state has {PATHS}.": lambda: renamed({"conv": "dense"}),
    "migrate(renamed=3): renamed must be a dict of new paths by old ones, or a function.": lambda: renamed(3),
    "migrate: renamed returned None for 'dense/bias'; it must return a path.": lambda: renamed(lambda path: None),
    "migrate: renamed makes one path of two: 'slots/adam/mu/dense/bias' and 'slots/adam/mu/dense/kernel' would both be "
    "'slots/adam/mu/w'.": lambda: renamed(lambda path: "w"),
    "migrate: two parameters have the path 'a/b'; give each one of its own.": lambda: jadam.migrate(
        ADAM.init(W), ADAM, {"a/b": ONES, "a": {"b": ONES}}
    ),
    # from_torch
    f"from_torch: a NoneType {NOT_OURS}": lambda: from_torch(tx=None),
    "from_torch: {} is not a state_dict; pass what optimizer.state_dict() of torch returned.": lambda: jadam.from_torch(
        ADAM, W, {}, ["w"]
    ),
    "from_torch(names='w'): names must be a dict of paths by torch's keys, or a list of paths.": lambda: from_torch(names="w"),
    "from_torch: names has 3 for 0; write a path, or (path, axes).": lambda: from_torch(names=[3]),
    "from_torch: names has 'v', and the parameters have w.": lambda: from_torch(names=["v"]),
    "from_torch: names has the axes (1, 0) for 'w', which has 1; each must stand there once.": lambda: from_torch(
        names=[("w", (1, 0))]
    ),
    "from_torch: names has 'w' twice, for 0 and 1.": lambda: from_torch(names=["w", "w"]),
    "from_torch: names has nothing for w, which is trained.": lambda: from_torch(names=[]),
    "from_torch: the state_dict has nothing for 1, which is w here; it has 0.": lambda: from_torch(names={1: "w"}),
    "from_torch: the state_dict has no exp_avg for 0; it has step.": lambda: from_torch({"step": 5.0}),
    "from_torch: momentum_buffer of 0 is None, as torch has it before the first step; write zeros in its place, or, where no "
    "step was done, take tx.init(params).": lambda: from_torch(
        {"momentum_buffer": None}, tx=jadam.sgd(0.1, momentum=0.9), count=0
    ),
    "from_torch: exp_avg of 0 has shape (2,), the parameter at w (3,); if its axes are in another order, say so: "
    "('w', axes).": lambda: from_torch(MOMENTS | {"exp_avg": np.ones(2)}),
    "from_torch: exp_avg of 0 has dtype <U4, which is not a number.": lambda: from_torch(MOMENTS | {"exp_avg": "lost"}),
    # A count of -3 came to be the state's, and NaN ended in Python's words.
    "from_torch: step of 0 is -3.0; it must be an integer in [0, 2**31).": lambda: from_torch(MOMENTS | {"step": -3.0}),
    "from_torch: step of 0 is nan; it must be an integer in [0, 2**31).": lambda: from_torch(MOMENTS | {"step": float("nan")}),
    "from_torch: step of 0 is 2.5; it must be an integer in [0, 2**31).": lambda: from_torch(MOMENTS | {"step": 2.5}),
    "from_torch: exp_avg of 0 is complex, and the parameter at w is float32.": lambda: from_torch(
        MOMENTS | {"exp_avg": np.ones(3) * 1j}
    ),
    # The maximum of an amsgrad run, or the momentum of SGD, was lost without a word.
    "from_torch: the state_dict has max_exp_avg_sq for 0, which nothing in tx keeps; take it out of the state_dict to go on "
    "without.": lambda: from_torch(MOMENTS | {"max_exp_avg_sq": np.ones(3)}),
    "from_torch: the state_dict has momentum_buffer for 0, which nothing in tx keeps; take it out of the state_dict to go on "
    "without.": lambda: from_torch({"momentum_buffer": np.ones(3)}, tx=jadam.sgd(0.1), count=3),
    "from_torch(count=-1): count must be an integer in [0, 2**31).": lambda: from_torch(count=-1),
    "from_torch: the state_dict does not say how many updates were done; give count=.": lambda: from_torch(
        {"momentum_buffer": np.ones(3)}, tx=jadam.sgd(0.1, momentum=0.9)
    ),
    "from_torch: scale_by_lion keeps mu; torch has the moments of adam, amsgrad, trace alone.": lambda: from_torch(
        tx=jadam.lion(0.1)
    ),
    "from_torch: the parameters have done different numbers of updates, 5 of v and 6 of w, and one count here; put those with "
    "one number into a group of a partition, which has a count of its own.": lambda: jadam.from_torch(
        ADAM, {"v": ONES, "w": ONES}, {"state": {0: MOMENTS, 1: MOMENTS | {"step": 6.0}}}, ["v", "w"]
    ),
    # to_torch
    f"to_torch: a NoneType {NOT_OURS}": lambda: jadam.to_torch(None, PARAMS, STATE, []),
    "to_torch: the third argument is a dict, " + RETURNED: lambda: jadam.to_torch(TX, PARAMS, PARAMS, []),
    "to_torch: names has nothing for dense/bias, which is trained.": lambda: jadam.to_torch(
        TX, PARAMS, STATE, ["dense/kernel"]
    ),
}
