"""Of optimizers, blocks, chains and wrappers."""

import jax.numpy as jnp

import jadam
from wrong_calls import ADAM, BIAS, NEEDS_PARAMS, NO_COMPLEX, ONES, PARAMS, SOAP, STATE

CALLS = {
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
    "soap(precondition_frequency=0): precondition_frequency must be an integer in [1, 2**31).": lambda: jadam.soap(
        1e-3, precondition_frequency=0
    ),
    "ademamix(b3_warmup=1.5): b3_warmup must be an integer in [1, 2**31).": lambda: jadam.ademamix(1e-3, b3_warmup=1.5),
    "adam_mini.init: the parameter at dense/bias: blocks must be a tuple of integers, one for each of the last axes, "
    "not 2.": lambda: jadam.adam_mini(1e-3, blocks={"dense": 2}).init(PARAMS),
    "adafactor(beta2_decay=0.8): beta2_decay must be a finite number < 0.": lambda: jadam.adafactor(1e-3, beta2_decay=0.8),
    "muon(adam_b2=2.0): adam_b2 must be in [0, 1).": lambda: jadam.muon(1e-3, adam_b2=2.0),
    "schedule_free_adamw(b2=2.0): b2 must be in [0, 1).": lambda: jadam.schedule_free_adamw(1e-3, b2=2.0),
    "muon(ns_dtype='bf16'): ns_dtype must be 'bfloat16', 'float16' or 'float32'.": lambda: jadam.muon(1e-3, ns_dtype="bf16"),
    "prodigy(b2=-0.5): b2 must be in [0, 1).": lambda: jadam.prodigy(b2=-0.5),
    "prodigy(growth_rate=0.5): growth_rate must be a finite number >= 1.": lambda: jadam.prodigy(growth_rate=0.5),
    "prodigy(b2=constant_schedule(value=0.9)): give b3 too; only of a number is it the root.": lambda: jadam.prodigy(
        b2=jadam.constant_schedule(0.9)
    ),
    "scale_by_rms(centered=True, bias_correction=True): choose one of them.": lambda: jadam.scale_by_rms(
        centered=True, bias_correction=True
    ),
    # optimizers and parameters
    "muon.init: the parameter at dense/bias: an array of shape (1,) cannot be orthogonalised; say with matrices= "
    "what can.": lambda: jadam.muon(1e-3, matrices=True).init(PARAMS),
    "adam_mini.init: the parameter at dense/bias: (2,) blocks do not divide its shape (1,).": lambda: jadam.adam_mini(
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
}
