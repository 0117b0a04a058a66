"""Errors say where, what, and what to write instead; nothing is broadcast and nothing is lost."""

import jax
import jax.numpy as jnp
import pytest

import jadam

PARAMS = {"dense": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)}}
TX = jadam.adamw(1e-3)
STATE = TX.init(PARAMS)


def grads(**changes):
    return {"dense": PARAMS["dense"] | changes}


CASES = {
    # the arguments of an optimizer
    "adamw(b2=1.5): b2 must be in [0, 1).": lambda: jadam.adamw(1e-3, b2=1.5),
    "adam(b1=-0.1): b1 must be in [0, 1).": lambda: jadam.adam(1e-3, b1=-0.1),
    "sgd(momentum=1.0): momentum must be in [0, 1).": lambda: jadam.sgd(1e-3, momentum=1.0),
    "adamw(learning_rate=-1.0): learning_rate must be a finite number >= 0.": lambda: jadam.adamw(-1.0),
    "adamw(learning_rate=nan): learning_rate must be a finite number >= 0.": lambda: jadam.adamw(float("nan")),
    "adamw(learning_rate=None): learning_rate must be a number or a schedule, not None.": lambda: jadam.adamw(None),
    "adamw(learning_rate='1e-3'): learning_rate must be a number or a schedule": lambda: jadam.adamw("1e-3"),
    "learning_rate must be a number or a schedule, not a mask.": lambda: jadam.adamw(jadam.match("**/bias")),
    "must be a scalar, not of shape (8,); for several values at once, put `jax.vmap`": lambda: jadam.adamw(jnp.ones(8)),
    "adamw(eps=-1e-08): eps must be a finite number >= 0.": lambda: jadam.adamw(1e-3, eps=-1e-8),
    "adamw(weight_decay=-1): weight_decay must be a finite number >= 0.": lambda: jadam.adamw(1e-3, weight_decay=-1),
    "adamw(decay='coupled'): decay must be 'decoupled', 'independent' or 'corrected'.": lambda: jadam.adamw(
        1e-3, decay="coupled"
    ),
    "adamw(decay='independent'): give peak_learning_rate; the learning rate is no number, and has no peak_value.": lambda: (
        jadam.adamw(jadam.cosine_decay_schedule(1.0, 10), decay="independent")
    ),
    "adamw(peak_learning_rate=0.0): peak_learning_rate must be": lambda: jadam.adamw(0.0, decay="independent"),
    "clip_by_global_norm(max_norm=0): max_norm must be a finite number > 0.": lambda: jadam.clip_by_global_norm(0),
    "scale_by_adam(b2=1.0): b2 must be in [0, 1).": lambda: jadam.scale_by_adam(b2=1.0),
    "sgd(nesterov=True): nesterov needs a momentum.": lambda: jadam.sgd(1e-3, nesterov=True),
    "amsgrad(maximum='torch'): maximum must be 'uncorrected', 'corrected' or 'paper'.": lambda: jadam.amsgrad(
        1e-3, maximum="torch"
    ),
    "adagrad(initial_accumulator_value=-1): initial_accumulator_value must be a finite number >= 0.": lambda: jadam.adagrad(
        1e-3, initial_accumulator_value=-1
    ),
    "soap(precondition_frequency=0): precondition_frequency must be an integer >= 1.": lambda: jadam.soap(
        1e-3, precondition_frequency=0
    ),
    "ademamix(b3_warmup=1.5): b3_warmup must be an integer >= 1.": lambda: jadam.ademamix(1e-3, b3_warmup=1.5),
    "adam_mini.init: the parameter at ['dense']['bias']: blocks must be a tuple of integers, one for each": lambda: (
        jadam.adam_mini(1e-3, blocks={"dense": 2}).init(PARAMS)
    ),
    "adafactor(beta2_decay=0.8): beta2_decay must be a finite number < 0.": lambda: jadam.adafactor(1e-3, beta2_decay=0.8),
    "muon(ns_dtype='bf16'): ns_dtype must be 'bfloat16', 'float16' or 'float32'.": lambda: jadam.muon(1e-3, ns_dtype="bf16"),
    "prodigy(b2=-0.5): b2 must be in [0, 1).": lambda: jadam.prodigy(b2=-0.5),
    "prodigy(growth_rate=0.5): growth_rate must be a number >= 1.": lambda: jadam.prodigy(growth_rate=0.5),
    "give b3 too; only of a number is it the root.": lambda: jadam.prodigy(b2=jadam.linear_schedule(0.9, 0.99, 5)),
    "scale_by_rms(centered=True, bias_correction=True): choose one of them.": lambda: jadam.scale_by_rms(
        centered=True, bias_correction=True
    ),
    # optimizers and parameters
    "muon.init: the parameter at ['dense']['bias']: an array of shape (1,) cannot be orthogonalised;": lambda: jadam.muon(
        1e-3, matrices=True
    ).init(PARAMS),
    "adam_mini.init: the parameter at ['dense']['bias']: (2,) blocks do not divide its shape (1,).": lambda: jadam.adam_mini(
        1e-3, blocks=(2,)
    ).init(PARAMS),
    "adam_mini: blocks does not fit the parameters": lambda: jadam.adam_mini(1e-3, blocks={"other": (1,)}).init(PARAMS),
    "adam_mini.init: scale_by_adam_mini does not act on complex parameters, and ['w'] is complex64; mask it out.": lambda: (
        jadam.adam_mini(1e-3).init({"w": jnp.ones(2, jnp.complex64)})
    ),
    "scale_by_laprop needs the learning rate, and the chain has none that acts on all its parameters;": lambda: (
        jadam.scale_by_laprop().update(PARAMS, jadam.scale_by_laprop().init(PARAMS), PARAMS)
    ),
    "prodigy.update: scale_by_prodigy needs the parameters; call update(grads, state, params)": lambda: jadam.prodigy().update(
        PARAMS, jadam.prodigy().init(PARAMS)
    ),
    "the decay cannot be masked: it has no add_decayed_weights.": lambda: jadam.cautious_weight_decay(jadam.adam(1e-3)),
    "the decay cannot be masked: decay_after_step decays by itself.": lambda: jadam.cautious_weight_decay(jadam.soap(1e-3)),
    "schedule_free_params: the state is not of a schedule-free optimizer.": lambda: jadam.schedule_free_params(STATE, PARAMS),
    # masks and groups
    "adamw: '**/bias' is no mask; write jadam.match('**/bias')": lambda: jadam.adamw(1e-3, mask="**/bias"),
    "masked: 'bias' is no mask; write jadam.match('bias')": lambda: jadam.masked(TX, "bias"),
    "is no mask; give a tree of bools or a function": lambda: jadam.masked(TX, jadam.constant_schedule(1.0)),
    "masked.init: match('**/biass') matches no parameter; there are 'dense/bias'": lambda: jadam.masked(
        TX, jadam.match("**/biass")
    ).init(PARAMS),
    "no mask covers the parameter at ['dense']['kernel']; add a last pair (True, transformation).": lambda: jadam.partition(
        [(jadam.match("**/bias"), TX)]
    ).init(PARAMS),
    "the parameter at ['dense']['bias'] has the label 'b', but the transformations are for 'a'.": lambda: jadam.partition(
        {"a": TX}, {"dense": {"kernel": "a", "bias": "b"}}
    ).init(PARAMS),
    "partition: transformations by label need param_labels": lambda: jadam.partition({"a": TX}),
    "param_labels goes with transformations by label": lambda: jadam.partition([(True, TX)], {"dense": "a"}),
    "masked.init: the mask does not fit the parameters": lambda: jadam.masked(TX, {"other": True}).init(PARAMS),
    "the mask has 1 at ['dense']['bias']; a mask is made of Python bools.": lambda: jadam.masked(TX, {"dense": 1}).init(PARAMS),
    "match(): give at least one pattern": lambda: jadam.match(),
    "match(3): a pattern is a string": lambda: jadam.match(3),  # pyright: ignore[reportArgumentType]
    "ndim_at_least(-1): ndim must be an integer >= 0.": lambda: jadam.ndim_at_least(-1),
    # trees and arguments
    "adamw.init: params has 'relu', a str, at ['dense']['act'], which is no array": lambda: TX.init(grads(act="relu")),
    "at ['dense']['act'], which is no array; take it out of the tree": lambda: TX.init(grads(act=jnp.tanh)),
    "adamw.update: the gradient at ['dense']['kernel'] has shape (3,), its parameter (3, 1).": lambda: TX.update(
        grads(kernel=jnp.ones(3)), STATE, PARAMS
    ),
    "adamw.step: the gradient at ['dense']['bias'] has shape (), its parameter (1,).": lambda: TX.step(
        grads(bias=jnp.ones(())), STATE, PARAMS
    ),
    "the gradient at ['dense']['bias'] has dtype complex64, its parameter float32": lambda: TX.update(
        grads(bias=jnp.ones(1, "complex64")), STATE, PARAMS
    ),
    "the gradient at ['dense']['bias'] has dtype int32, its parameter float32; give a floating-point": lambda: TX.update(
        grads(bias=jnp.ones(1, "int32")), STATE, PARAMS
    ),
    "do not have the structure of the parameters: ['dense']['bias'] is missing.": lambda: TX.update(
        {"dense": {"kernel": PARAMS["dense"]["kernel"]}}, STATE, PARAMS
    ),
    "['dense']['more'] is not among the parameters": lambda: TX.update(grads(more=jnp.ones(2)), STATE, PARAMS),
    "['dense']['bias'] is missing. Differentiate with respect to the same tree": lambda: TX.update(
        grads(bias=None), STATE, PARAMS
    ),
    "the second argument is a dict, not the state that init gave; the order is (grads, state, params).": lambda: TX.update(
        PARAMS, PARAMS, STATE
    ),
    "adamw.update: add_decayed_weights needs the parameters; call update(grads, state, params)": lambda: TX.update(
        PARAMS, STATE
    ),
    "adamw.step: params is None; call step(grads, state, params).": lambda: TX.step(PARAMS, STATE, None),
    "chain: argument 1 is 0.1, which is no transformation": lambda: jadam.chain(TX, 0.1),
    "apply_updates: the update at ['dense']['kernel'] has shape (1,), its parameter (3, 1).": lambda: jadam.apply_updates(
        PARAMS, grads(kernel=jnp.ones(1))
    ),
    "apply_updates: the updates do not have the structure": lambda: jadam.apply_updates(PARAMS, {"dense": {}}),
    "clip_by_block_rms does not act on complex parameters, and ['z'] is complex64; mask it out.": lambda: (
        jadam.clip_by_block_rms(1.0).init({"z": jnp.ones(2, "complex64")})
    ),
    # states
    "the state belongs to another transformation: it is of adam, add_decayed_weights, learning_rate, this one of": lambda: (
        jadam.sgd(0.1, momentum=0.9).update(PARAMS, STATE, PARAMS)
    ),
    "the state does not fit the parameter at ['w']: scale_by_adam keeps mu of shape (3,)": lambda: TX.update(
        {"w": jnp.ones(3)}, TX.init({"w": jnp.ones(1)}), {"w": jnp.ones(3)}
    ),
    "the state of adam has another structure than the parameters": lambda: TX.update(
        {"w": jnp.ones(3)}, STATE, {"w": jnp.ones(3)}
    ),
    "It was made for other parameters, another mask or another storage": lambda: jadam.adam(1.0).update(
        PARAMS, jadam.masked(jadam.adam(1.0), jadam.match("**/bias")).init(PARAMS), PARAMS
    ),
    # hyperparameters of a state
    "adamw.set_hyperparams: the first argument is a tuple, not the state that init gave.": lambda: TX.set_hyperparams(
        (STATE,), learning_rate=1.0
    ),
    "there is no 'lr'; there are b1, b2, eps, eps_root, learning_rate, weight_decay.": lambda: TX.set_hyperparams(
        STATE, lr=1.0
    ),
    "set_hyperparams: learning_rate must be a number here; build": lambda: TX.set_hyperparams(
        STATE, learning_rate=jadam.constant_schedule(1.0)
    ),
    "set_hyperparams(b1=1.0): b1 must be in [0, 1).": lambda: TX.set_hyperparams(STATE, b1=1.0),
    "learning_rate is driven by cosine_decay_schedule(": lambda: jadam.sgd(jadam.cosine_decay_schedule(1.0, 9)).set_hyperparams(
        jadam.sgd(1.0).init(PARAMS), learning_rate=1.0
    ),
    "learning_rate has shape (3,), in the state it has ().": lambda: TX.set_hyperparams(STATE, learning_rate=jnp.ones(3)),
    "with_precision(state='int3'): 'int3' must be one of float32, bfloat16, int8.": lambda: jadam.with_precision(TX, "int3"),
    "with_precision: no rule keeps 'nux'; there are mu, nu.": lambda: jadam.with_precision(TX, {"nux": "bfloat16"}),
    "state_shardings: no parameter has a sharding": lambda: jadam.state_shardings(
        TX, {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}
    ),
}


@pytest.mark.parametrize("words", CASES)
def test_error(words):
    with pytest.raises((ValueError, TypeError)) as error:
        CASES[words]()
    assert words in str(error.value)


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
