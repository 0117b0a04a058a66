"""Errors say where, what, and what to write instead; nothing is broadcast and nothing is lost."""

import jax
import jax.numpy as jnp
import pytest

import jadam

PARAMS = {"dense": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)}}
TX = jadam.adamw(1e-3)
STATE = TX.init(PARAMS)


ADAM, SOAP, BIAS, ONES = jadam.adam(1.0), jadam.soap(1e-3), jadam.match("**/bias"), jnp.ones(3)
NEEDS_PARAMS = "needs the parameters; call update(grads, state, params), not update(grads, state)."
STRUCTURE = "adamw.update: the gradients do not have the structure of the parameters: "
SAME_TREE = "Differentiate with respect to the same tree, or mask out what has no gradient."
TAKE_OUT = "which is not an array; take it out of the tree, or put None in its place."
NO_COMPLEX = "does not act on complex parameters, and ['w'] is complex64; mask it out."
FLOATS = "give a floating-point gradient, complex where the parameter is."
OTHER_STATE = "It was made for other parameters, another mask or another storage; call init with these."


def grads(**changes):
    return {"dense": PARAMS["dense"] | changes}


def update(**changes):
    return TX.update(grads(**changes), STATE, PARAMS)


CASES = {
    # the arguments of an optimizer
    "adamw(b2=1.5): b2 must be in [0, 1).": lambda: jadam.adamw(1e-3, b2=1.5),
    "adam(b1=-0.1): b1 must be in [0, 1).": lambda: jadam.adam(1e-3, b1=-0.1),
    "sgd(momentum=1.0): momentum must be in [0, 1).": lambda: jadam.sgd(1e-3, momentum=1.0),
    "adamw(learning_rate=-1.0): learning_rate must be a finite number >= 0.": lambda: jadam.adamw(-1.0),
    "adamw(learning_rate=nan): learning_rate must be a finite number >= 0.": lambda: jadam.adamw(float("nan")),
    "adamw(learning_rate=None): learning_rate must be a number or a schedule, not None.": lambda: jadam.adamw(None),
    "adamw(learning_rate='1e-3'): learning_rate must be a number or a schedule, not '1e-3'.": lambda: jadam.adamw("1e-3"),
    "adamw(learning_rate=match('**/bias')): learning_rate must be a number or a schedule, not a mask.": lambda: jadam.adamw(
        BIAS
    ),
    "adamw(learning_rate=Array([1., 1., 1.], dtype=float32)): learning_rate must be a scalar, not of shape (3,); "
    "for several values at once, put `jax.vmap` around `init` and `update`, or use groups.": lambda: jadam.adamw(ONES),
    "adamw(eps=-1e-08): eps must be a finite number >= 0.": lambda: jadam.adamw(1e-3, eps=-1e-8),
    "adamw(weight_decay=-1): weight_decay must be a finite number >= 0.": lambda: jadam.adamw(1e-3, weight_decay=-1),
    "adamw(decay='coupled'): decay must be 'decoupled', 'independent' or 'corrected'.": lambda: jadam.adamw(1, decay="coupled"),
    "adamw(decay='independent'): give peak_learning_rate; the learning rate is not a number, and has no peak_value.": lambda: (
        jadam.adamw(jadam.cosine_decay_schedule(1.0, 10), decay="independent")
    ),
    "adamw(peak_learning_rate=0.0): peak_learning_rate must be a finite number > 0.": lambda: jadam.adamw(
        0.0, decay="independent"
    ),
    "clip_by_global_norm(max_norm=0): max_norm must be a finite number > 0.": lambda: jadam.clip_by_global_norm(0),
    "scale_by_adam(b2=1.0): b2 must be in [0, 1).": lambda: jadam.scale_by_adam(b2=1.0),
    "sgd(nesterov=True): nesterov needs a momentum.": lambda: jadam.sgd(1e-3, nesterov=True),
    "amsgrad(maximum='torch'): maximum must be 'uncorrected', 'corrected' or 'paper'.": lambda: jadam.amsgrad(
        1, maximum="torch"
    ),
    "adagrad(initial_accumulator_value=-1): initial_accumulator_value must be a finite number >= 0.": lambda: jadam.adagrad(
        1e-3, initial_accumulator_value=-1
    ),
    "soap(precondition_frequency=0): precondition_frequency must be an integer >= 1.": lambda: jadam.soap(
        1e-3, precondition_frequency=0
    ),
    "ademamix(b3_warmup=1.5): b3_warmup must be an integer >= 1.": lambda: jadam.ademamix(1e-3, b3_warmup=1.5),
    "adam_mini.init: the parameter at ['dense']['bias']: blocks must be a tuple of integers, one for each of the last axes, "
    "not 2.": lambda: jadam.adam_mini(1e-3, blocks={"dense": 2}).init(PARAMS),
    "adafactor(beta2_decay=0.8): beta2_decay must be a finite number < 0.": lambda: jadam.adafactor(1e-3, beta2_decay=0.8),
    "muon(adam_b2=2.0): adam_b2 must be in [0, 1).": lambda: jadam.muon(1e-3, adam_b2=2.0),
    "schedule_free_adamw(b2=2.0): b2 must be in [0, 1).": lambda: jadam.schedule_free_adamw(1e-3, b2=2.0),
    "muon(ns_dtype='bf16'): ns_dtype must be 'bfloat16', 'float16' or 'float32'.": lambda: jadam.muon(1e-3, ns_dtype="bf16"),
    "prodigy(b2=-0.5): b2 must be in [0, 1).": lambda: jadam.prodigy(b2=-0.5),
    "prodigy(growth_rate=0.5): growth_rate must be a number >= 1.": lambda: jadam.prodigy(growth_rate=0.5),
    "prodigy(b2=constant_schedule(value=0.9)): give b3 too; only of a number is it the root.": lambda: jadam.prodigy(
        b2=jadam.constant_schedule(0.9)
    ),
    "scale_by_rms(centered=True, bias_correction=True): choose one of them.": lambda: jadam.scale_by_rms(
        centered=True, bias_correction=True
    ),
    # optimizers and parameters
    "muon.init: the parameter at ['dense']['bias']: an array of shape (1,) cannot be orthogonalised; say with matrices= "
    "what can.": lambda: jadam.muon(1e-3, matrices=True).init(PARAMS),
    "adam_mini.init: the parameter at ['dense']['bias']: (2,) blocks do not divide its shape (1,).": lambda: jadam.adam_mini(
        1e-3, blocks=(2,)
    ).init(PARAMS),
    f"adam_mini.init: scale_by_adam_mini {NO_COMPLEX}": lambda: jadam.adam_mini(1e-3).init({"w": jnp.ones(2, "complex64")}),
    "scale_by_laprop.update: scale_by_laprop needs the learning rate, and the chain has none that acts on all its parameters; "
    "add scale_by_learning_rate(...), or put scale_by_laprop into each group of a partition.": lambda: (
        jadam.scale_by_laprop().update(PARAMS, jadam.scale_by_laprop().init(PARAMS), PARAMS)
    ),
    f"prodigy.update: scale_by_prodigy {NEEDS_PARAMS}": lambda: jadam.prodigy().update(PARAMS, jadam.prodigy().init(PARAMS)),
    f"cautious_weight_decay: of {ADAM} the decay cannot be masked: it has no add_decayed_weights.": lambda: (
        jadam.cautious_weight_decay(ADAM)
    ),
    f"cautious_weight_decay: of {SOAP} the decay cannot be masked: decay_after_step decays by itself.": lambda: (
        jadam.cautious_weight_decay(SOAP)
    ),
    "schedule_free_params: the state is not of a schedule-free optimizer.": lambda: jadam.schedule_free_params(STATE, PARAMS),
    # masks and groups
    "adamw: '**/bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: jadam.adamw(
        1e-3, mask="**/bias"
    ),
    "masked: 'bias' is not a mask; write jadam.match('bias') to select parameters by path.": lambda: jadam.masked(TX, "bias"),
    "masked: constant_schedule(value=1.0) is not a mask; give a tree of bools or a function of the parameters.": lambda: (
        jadam.masked(TX, jadam.constant_schedule(1.0))
    ),
    "masked.init: match('**/biass') matches no parameter; there are 'dense/bias', ...": lambda: jadam.masked(
        TX, jadam.match("**/biass")
    ).init(PARAMS),
    "partition.init: no mask covers the parameter at ['dense']['kernel']; add a last pair (True, transformation).": (
        lambda: jadam.partition([(BIAS, TX)]).init(PARAMS)
    ),
    "partition.init: the parameter at ['dense']['bias'] has the label 'b', but the transformations are for 'a'.": (
        lambda: jadam.partition({"a": TX}, {"dense": {"kernel": "a", "bias": "b"}}).init(PARAMS)
    ),
    "partition: transformations by label need param_labels, a tree of labels or a function.": lambda: jadam.partition(
        {"a": TX}
    ),
    "partition: param_labels goes with transformations by label, not with (mask, transformation) pairs.": lambda: (
        jadam.partition([(True, TX)], {"dense": "a"})
    ),
    "masked.init: the mask has 1 at ['dense']['bias']; a mask is made of Python bools.": lambda: jadam.masked(
        TX, {"dense": 1}
    ).init(PARAMS),
    "match(): give at least one pattern, such as '**/bias'.": lambda: jadam.match(),
    "match(3): a pattern is a string, such as '**/bias'.": lambda: jadam.match(3),  # pyright: ignore[reportArgumentType]
    "ndim_at_least(-1): ndim must be an integer >= 0.": lambda: jadam.ndim_at_least(-1),
    # trees and arguments
    f"adamw.init: params has 'relu', a str, at ['dense']['act'], {TAKE_OUT}": lambda: TX.init(grads(act="relu")),
    f"adamw.init: params has <built-in function len>, a builtin_function_or_method, at ['dense']['act'], {TAKE_OUT}": lambda: (
        TX.init(grads(act=len))
    ),
    "adamw.update: the gradient at ['dense']['kernel'] has shape (3,), its parameter (3, 1).": lambda: update(kernel=ONES),
    "adamw.step: the gradient at ['dense']['bias'] has shape (), its parameter (1,).": lambda: TX.step(
        grads(bias=jnp.ones(())), STATE, PARAMS
    ),
    f"adamw.update: the gradient at ['dense']['bias'] has dtype complex64, its parameter float32; {FLOATS}": lambda: update(
        bias=jnp.ones(1, "complex64")
    ),
    f"adamw.update: the gradient at ['dense']['bias'] has dtype int32, its parameter float32; {FLOATS}": lambda: update(
        bias=jnp.ones(1, "int32")
    ),
    f"{STRUCTURE}['dense']['bias'] is missing. {SAME_TREE}": lambda: TX.update(
        {"dense": {"kernel": PARAMS["dense"]["kernel"]}}, STATE, PARAMS
    ),
    f"{STRUCTURE}['dense']['kernel'] is missing. {SAME_TREE}": lambda: update(kernel=None),
    f"{STRUCTURE}['dense']['more'] is not among the parameters. {SAME_TREE}": lambda: update(more=jnp.ones(2)),
    "adamw.update: the second argument is a dict, not the state that init returned; "
    "the order is (grads, state, params).": lambda: TX.update(PARAMS, PARAMS, STATE),
    f"adamw.update: add_decayed_weights {NEEDS_PARAMS}": lambda: TX.update(PARAMS, STATE),
    "adamw.step: params is None; call step(grads, state, params).": lambda: TX.step(PARAMS, STATE, None),
    "chain: argument 1 is 0.1, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.chain(TX, 0.1)
    ),
    "apply_updates: the update at ['dense']['kernel'] has shape (1,), its parameter (3, 1).": lambda: jadam.apply_updates(
        PARAMS, grads(kernel=jnp.ones(1))
    ),
    "apply_updates: the updates do not have the structure of the parameters: ['dense']['bias'] is missing.": lambda: (
        jadam.apply_updates(PARAMS, {"dense": {}})
    ),
    f"clip_by_block_rms.init: clip_by_block_rms {NO_COMPLEX}": lambda: jadam.clip_by_block_rms(1.0).init(
        {"w": jnp.ones(2, "complex64")}
    ),
    # states
    "sgd.update: the state belongs to another transformation: it is of adam, add_decayed_weights, learning_rate, this one of "
    "trace, learning_rate. Use the state that this transformation's init returned.": lambda: jadam.sgd(
        0.1, momentum=0.9
    ).update(PARAMS, STATE, PARAMS),
    "adamw.update: the state does not fit the parameter at ['w']: scale_by_adam keeps mu of shape (3,), nu of shape (3,), "
    f"the state has mu of shape (1,), nu of shape (1,). {OTHER_STATE}": lambda: TX.update(
        {"w": ONES}, TX.init({"w": jnp.ones(1)}), {"w": ONES}
    ),
    "adamw.update: the state of adam has another structure than the parameters: it was made for other ones. Call init with "
    "these.": lambda: TX.update({"w": ONES}, STATE, {"w": ONES}),
    "adam.update: the state does not fit the parameter at ['dense']['kernel']: scale_by_adam keeps mu of shape (3, 1), nu of "
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


@pytest.mark.parametrize("message", CASES)
def test_error(message):
    with pytest.raises((ValueError, TypeError)) as error:
        CASES[message]()
    assert str(error.value) == message


OTHERS_FOLLOW = {
    "adam_mini.init: blocks does not fit the parameters: ": lambda: jadam.adam_mini(1e-3, blocks={"other": (1,)}).init(PARAMS),
    "masked.init: the mask does not fit the parameters: ": lambda: jadam.masked(TX, {"other": True}).init(PARAMS),
}
"""JAX's own words, which change with its version, end these messages."""


@pytest.mark.parametrize("beginning", OTHERS_FOLLOW)
def test_error_that_ends_in_words_of_jax(beginning):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are checked below)
        OTHERS_FOLLOW[beginning]()
    assert str(error.value).startswith(beginning)
    assert "dense" in str(error.value)


def test_the_same_words_inside_jit():
    step = jax.jit(lambda g, s, p: jadam.chain(TX).update(g, s, p))
    with pytest.raises(ValueError, match=r"chain\.update: the gradient at \['dense'\]\['kernel'\] has shape \(3,\)"):
        step(grads(kernel=jnp.ones(3)), STATE, PARAMS)


def test_an_error_loses_nothing():
    with pytest.raises(ValueError, match="has shape"):
        TX.step(grads(kernel=jnp.ones(3)), STATE, PARAMS)
    moved, state = TX.step(PARAMS, STATE, PARAMS)
    assert state.count == 1
    assert moved["dense"]["kernel"].shape == (3, 1)


def test_rules_of_users_speak_of_themselves():
    class ScaleByMine(jadam.Rule):
        def update(self, g, slots, p, h):
            return g, slots

    assert repr(ScaleByMine()) == "scale_by_mine()"
    assert jadam.block(ScaleByMine)().name == "scale_by_mine"
