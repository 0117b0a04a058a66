"""Of optimizers, blocks, chains and wrappers."""

import jax.numpy as jnp
import numpy as np

import jadam
from wrong_calls import ADAM, BIAS, NEEDS_PARAMS, NO_COMPLEX, ONES, PARAMS, SOAP

SETS = "'quintic', 'polar_express', 'deepseek_v4', 'cans', or a tuple of triples of numbers, one (a, b, c) a step"
CALLS = {
    # the arguments of an optimizer
    "adamw(b2=1.5): b2 must be in [0, 1).": lambda: jadam.adamw(1e-3, b2=1.5),
    "adam(b1=-0.1): b1 must be in [0, 1).": lambda: jadam.adam(1e-3, b1=-0.1),
    "sgd(momentum=1.0): momentum must be in [0, 1).": lambda: jadam.sgd(1e-3, momentum=1.0),
    "adafactor(learning_rate=-1.0): learning_rate must be a finite number >= 0.": lambda: jadam.adafactor(-1.0),
    "adamw(learning_rate=nan): learning_rate must be a finite number.": lambda: jadam.adamw(float("nan")),
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
    "clip_by_global_norm(max_norm=0): max_norm must be a number > 0.": lambda: jadam.clip_by_global_norm(0),
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
    # numbers that the state cannot hold, and what is not a number
    "adam(learning_rate=1e+39): learning_rate must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in "
    "which it is kept, it is inf.": lambda: jadam.adam(1e39),
    "adam(learning_rate=10000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "00000000000...): learning_rate must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in which it is "
    "kept, it is inf.": lambda: jadam.adam(10**400),
    "adam(learning_rate=np.float64(1e+39)): learning_rate must be between 1.2e-38 and 3.4e+38 in magnitude; in "
    "float32, in which it is kept, it is inf.": lambda: jadam.adam(np.float64(1e39)),
    "adam(eps=1e-50): eps must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in which it is kept, it "
    "is 0.": lambda: jadam.adam(1e-3, eps=1e-50),
    "adam(eps_root=Array(1.e-40, dtype=float32)): eps_root must be between 1.2e-38 and 3.4e+38 in magnitude; in "
    "float32, in which it is kept, it is 0.": lambda: jadam.adam(1e-3, eps_root=jnp.float32(1e-40)),
    "adam(learning_rate=np.True_): learning_rate must be a number or a schedule, not of dtype bool.": lambda: jadam.adam(
        np.True_
    ),
    "adam(learning_rate=True): learning_rate must be a number or a schedule, not True.": lambda: jadam.adam(True),
    "adam(learning_rate=Array(True, dtype=bool)): learning_rate must be a number or a schedule, not of dtype bool.": lambda: (
        jadam.adam(jnp.asarray(True))
    ),
    "adam(learning_rate=float): learning_rate must be a number or a schedule, not the class float; call it.": lambda: (
        jadam.adam(float)
    ),
    "adam(learning_rate=1j): learning_rate must be a number or a schedule, not a complex.": lambda: jadam.adam(1j),
    "adam(learning_rate=Array(1.+0.j, dtype=complex64)): learning_rate must be a number or a schedule, not of "
    "dtype complex64.": lambda: jadam.adam(jnp.complex64(1.0)),
    "adam(learning_rate=b'1e-3'): learning_rate must be a number or a schedule, not b'1e-3'.": lambda: jadam.adam(b"1e-3"),
    "adam(learning_rate=[0.001]): learning_rate must be a number or a schedule, not a list; for several values "
    "at once, put `jax.vmap` around `init` and `update`, or use groups.": lambda: jadam.adam([1e-3]),
    "adam(learning_rate={}): learning_rate must be a number or a schedule, not a dict.": lambda: jadam.adam({}),
    "adam(learning_rate={'dense': {'kernel': Array([[1.], [1.], [1.]], dtype=float32), 'bias': Array([1.], "
    "dtype=float32)}}): learning_rate must be a number or a schedule, not a dict.": lambda: jadam.adam(PARAMS),
    "adam(learning_rate=object): learning_rate must be a number or a schedule, not the class object; call it.": lambda: (
        jadam.adam(object)
    ),
    "adam(learning_rate=inf): learning_rate must be a finite number.": lambda: jadam.adam(float("inf")),
    "adam(learning_rate=array([1.])): learning_rate must be a scalar, not of shape (1,); for several values at "
    "once, put `jax.vmap` around `init` and `update`, or use groups.": lambda: jadam.adam(np.ones(1)),
    "adam(learning_rate=scale_by_learning_rate(learning_rate=1.0)): learning_rate must be a number or a "
    "schedule, not a GradientTransformation.": lambda: jadam.adam(jadam.sgd(1.0)),
    "adam(learning_rate=clip): learning_rate must be a number or a schedule, not the function clip; call it.": lambda: (
        jadam.adam(jadam.clip)
    ),
    "adam(learning_rate=constant_schedule): learning_rate must be a number or a schedule, not the class "
    "constant_schedule; call it.": lambda: jadam.adam(jadam.constant_schedule),
    "adam(learning_rate=<int>): learning_rate must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in "
    "which it is kept, it is inf.": lambda: jadam.adam(10**5000),
    "prodigy(d0=1e-50): d0 must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in which it is kept, it "
    "is 0.": lambda: jadam.prodigy(d0=1e-50),
    "adabound(base_learning_rate=1e+39): base_learning_rate must be between 1.2e-38 and 3.4e+38 in magnitude; in "
    "float32, in which it is kept, it is inf.": lambda: jadam.adabound(1e-3, base_learning_rate=1e39),
    "adagrad(initial_accumulator_value=1e+39): initial_accumulator_value must be between 1.2e-38 and 3.4e+38 in "
    "magnitude; in float32, in which it is kept, it is inf.": lambda: jadam.adagrad(1e-3, initial_accumulator_value=1e39),
    "yogi(initial_accumulator_value=-1.0): initial_accumulator_value must be a finite number >= 0.": lambda: jadam.yogi(
        1e-3, initial_accumulator_value=-1.0
    ),
    "adafactor(eps1=1e-50): eps1 must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in which it is "
    "kept, it is 0.": lambda: jadam.adafactor(1e-3, eps1=1e-50),
    # None, and options of another kind
    "adamw(decay=None): decay must be 'decoupled', 'independent' or 'corrected'.": lambda: jadam.adamw(1e-3, decay=None),
    "adamw(b1=None): b1 must be a number or a schedule, not None.": lambda: jadam.adamw(1e-3, b1=None),
    "adam(eps_form=None): eps_form must be 'standard' or 'eps_hat'.": lambda: jadam.adam(1e-3, eps_form=None),
    "nadam(momentum_decay=None): momentum_decay must be a number or a schedule, not None.": lambda: jadam.nadam(
        1e-3, momentum_decay=None
    ),
    "rmsprop(centered=None): centered must be True or False.": lambda: jadam.rmsprop(1e-3, centered=None),
    "muon(scale=None): scale must be 'keller', 'moonlight' or 'unit_rms'.": lambda: jadam.muon(1e-3, scale=None),
    "muon(nesterov=None): nesterov must be True or False.": lambda: jadam.muon(1e-3, nesterov=None),
    "muon: matrices=axes(inputs=(1,), outputs=(0,)): say of which parameters these are the axes: [(True, axes(inputs=(1,), "
    "outputs=(0,)))].": lambda: jadam.muon(1e-3, matrices=jadam.axes(1, 0)),
    "muon: pair 1 of matrices is 'w'; write (mask, axes(inputs=..., outputs=...)).": lambda: jadam.muon(
        1e-3, matrices=[(True, jadam.axes(0, 1)), "w"]
    ),
    "muon: 'kernel' is not a mask; write jadam.match('**/kernel') to select parameters by path.": lambda: jadam.muon(
        1e-3, matrices="kernel"
    ),
    "muon.init: axes(inputs=(0,), outputs=(1, 2)) does not name each axis of dense/kernel once, which has shape (3, 1); "
    "give every axis to inputs, outputs or stacked.": lambda: jadam.muon(
        1e-3, matrices=[(jadam.match("**/kernel"), jadam.axes(0, (1, 2)))]
    ).init(PARAMS),
    "muon.init: axes(inputs=(1,), outputs=(0,), split=2) splits the outputs of dense/kernel, which has shape (3, 1), into "
    "unequal parts.": lambda: jadam.muon(1e-3, matrices=[(jadam.match("**/kernel"), jadam.axes(1, 0, split=2))]).init(PARAMS),
    "muon.init: match('**/weight') matches no parameter; there are 'dense/bias', 'dense/kernel', ...": lambda: jadam.muon(
        1e-3, matrices=[(jadam.match("**/weight"), jadam.axes(1, 0))]
    ).init(PARAMS),
    "axes(inputs=0.5): inputs must be an axis, or a tuple of axes such as (1, 2).": lambda: jadam.axes(0.5, 1),
    "axes(outputs=()): outputs must be at least one axis.": lambda: jadam.axes(0, ()),
    "axes: an axis is named twice, in (0,), (0, 1) and ().": lambda: jadam.axes(0, (0, 1)),
    "axes(split=0): split must be an integer >= 1.": lambda: jadam.axes(0, 1, split=0),
    "muon(ns_steps=True): ns_steps must be an integer in [1, 2**31).": lambda: jadam.muon(1e-3, ns_steps=True),
    "muon(adam_ratio=-1): adam_ratio must be a finite number >= 0.": lambda: jadam.muon(1e-3, adam_ratio=-1),
    f"muon(ns_coeffs='polar'): ns_coeffs must be {SETS}.": lambda: jadam.muon(1e-3, ns_coeffs="polar"),
    f"muon(ns_coeffs=(3.4, -4.8, 2.0)): ns_coeffs must be {SETS}.": lambda: jadam.muon(1e-3, ns_coeffs=(3.4, -4.8, 2.0)),
    "muon: adam_ratio is of the learning rate, and adam_learning_rate takes its place; give one of the two.": lambda: (
        jadam.muon(1e-3, adam_ratio=0.1, adam_learning_rate=1e-3)
    ),
    "normuon(norm_eps_form='maximum'): norm_eps_form must be 'add' or 'max'.": lambda: jadam.normuon(
        1e-3, norm_eps_form="maximum"
    ),
    "prodigy(b2=None): b2 must be a number or a schedule, not None.": lambda: jadam.prodigy(b2=None),
    "prodigy(b2='a'): b2 must be a number or a schedule, not 'a'.": lambda: jadam.prodigy(b2="a"),
    "prodigy(growth_rate=True): growth_rate must be a finite number >= 1.": lambda: jadam.prodigy(growth_rate=True),
    "prodigy(safeguard_warmup=1): safeguard_warmup must be True or False.": lambda: jadam.prodigy(safeguard_warmup=1),
    "sgd(nesterov='no'): nesterov must be True or False.": lambda: jadam.sgd(0.1, momentum=0.9, nesterov="no"),
    "sgd(dampening='x'): dampening must be a number or a schedule, not 'x'.": lambda: jadam.sgd(0.1, dampening="x"),
    "radam: 'bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: jadam.radam(
        1e-3, mask="bias"
    ),
    "radam(weight_decay='0.1'): weight_decay must be a number or a schedule, not '0.1'.": lambda: jadam.radam(
        1e-3, weight_decay="0.1"
    ),
    "schedule_free_adamw(decay_at_z='no'): decay_at_z must be True or False.": lambda: jadam.schedule_free_adamw(
        1e-3, decay_at_z="no"
    ),
    "schedule_free_adamw(warmup_steps=None): warmup_steps must be a finite number >= 0.": lambda: jadam.schedule_free_adamw(
        1e-3, warmup_steps=None
    ),
    "adopt(use_clipping=0): use_clipping must be True or False.": lambda: jadam.adopt(1e-3, use_clipping=0),
    "adan(no_prox='yes'): no_prox must be True or False.": lambda: jadam.adan(1e-3, no_prox="yes"),
    "adabound(amsbound=1.0): amsbound must be True or False.": lambda: jadam.adabound(1e-3, amsbound=1.0),
    "ademamix(alpha_warmup='100'): alpha_warmup must be an integer in [1, 2**31).": lambda: jadam.ademamix(
        1e-3, alpha_warmup="100"
    ),
    "soap(precondition_frequency=1000000000000000000000000000000): precondition_frequency must be an integer in "
    "[1, 2**31).": lambda: jadam.soap(1e-3, precondition_frequency=10**30),
    "soap(max_precondition_size=None): max_precondition_size must be an integer in [1, 2**31).": lambda: jadam.soap(
        1e-3, max_precondition_size=None
    ),
    "big_vision_adafactor(min_dim_size_to_factor=0): min_dim_size_to_factor must be an integer in [1, 2**31).": lambda: (
        jadam.big_vision_adafactor(1e-3, min_dim_size_to_factor=0)
    ),
    "big_vision_adafactor(clipping_threshold=0): clipping_threshold must be a finite number > 0.": lambda: (
        jadam.big_vision_adafactor(1e-3, clipping_threshold=0)
    ),
    "adafactor(d=0): d must be a finite number > 0.": lambda: jadam.adafactor(1e-3, d=0),
    "adadelta(rho=1): rho must be in [0, 1).": lambda: jadam.adadelta(1.0, rho=1),
    "adamax(b1=1.0): b1 must be in [0, 1).": lambda: jadam.adamax(1e-3, b1=1.0),
    "adabelief(eps=-1): eps must be a finite number >= 0.": lambda: jadam.adabelief(1e-3, eps=-1),
    "adam_atan2(a=-1.0): a must be a finite number >= 0.": lambda: jadam.adam_atan2(1e-3, a=-1.0),
    "laprop(b1=2): b1 must be in [0, 1).": lambda: jadam.laprop(1e-3, b1=2),
    "lion(b2=[0.99]): b2 must be a number or a schedule, not a list; for several values at once, put `jax.vmap` "
    "around `init` and `update`, or use groups.": lambda: jadam.lion(1e-4, b2=[0.99]),
    "lamb(eps=nan): eps must be a finite number >= 0.": lambda: jadam.lamb(1e-3, eps=float("nan")),
    "mars_adamw(gamma=-0.1): gamma must be a finite number >= 0.": lambda: jadam.mars_adamw(1e-3, gamma=-0.1),
    "nadamw(b1='0.9'): b1 must be a number or a schedule, not '0.9'.": lambda: jadam.nadamw(1e-3, b1="0.9"),
    "stable_adamw(weight_decay=None): weight_decay must be a number or a schedule, not None.": lambda: jadam.stable_adamw(
        1e-3, weight_decay=None
    ),
    "yogi(b2=-1): b2 must be in [0, 1).": lambda: jadam.yogi(1e-3, b2=-1),
    # calls that do not fit the signature
    "adamw: learning_rate must be given; it accepts learning_rate, b1, b2, eps, eps_root, eps_form, "
    "weight_decay, mask, decay, peak_learning_rate.": lambda: jadam.adamw(),
    "adamw: only learning_rate, b1, b2, eps may be given by position; write eps_root=0.0.": lambda: jadam.adamw(
        1e-3, 0.9, 0.999, 1e-8, 0.0
    ),
    "muon: only learning_rate may be given by position; write momentum=0.9.": lambda: jadam.muon(0.02, 0.9),
    "adam: there is no nesterov; jadam.nadamw is Adam along a Nesterov momentum. It accepts learning_rate, b1, b2, eps, "
    "eps_root, eps_form.": lambda: jadam.adam(1e-3, nesterov=True),
    "adamw: there is no mu_dtype; write jadam.with_precision(tx, state={'mu': 'bfloat16'}). It accepts learning_rate, b1, b2, "
    "eps, eps_root, eps_form, weight_decay, mask, decay, peak_learning_rate.": lambda: jadam.adamw(
        1e-3, mu_dtype=jnp.bfloat16, nesterov=False
    ),
    "adafactor: there is no decay_rate; write beta2_decay=..., which is minus it. It accepts learning_rate, beta2_decay, eps1, "
    "eps2, d, weight_decay, mask, matrices.": lambda: jadam.adafactor(1e-3, factored=True, momentum=None, decay_rate=0.9),
    "lion: there is no factored; it accepts learning_rate, b1, b2, weight_decay, mask.": lambda: jadam.lion(
        1e-3, factored=True
    ),
    "adamw: there is no beta1; write b1=0.9. It accepts learning_rate, b1, b2, eps, eps_root, eps_form, "
    "weight_decay, mask, decay, peak_learning_rate.": lambda: jadam.adamw(1e-3, beta1=0.9),
    "adamw: there is no betas; write b1=0.9, b2=0.99. It accepts learning_rate, b1, b2, eps, eps_root, eps_form, "
    "weight_decay, mask, decay, peak_learning_rate.": lambda: jadam.adamw(1e-3, betas=(0.9, 0.99)),
    "adamw: there is no lr; write learning_rate=0.001. It accepts learning_rate, b1, b2, eps, eps_root, "
    "eps_form, weight_decay, mask, decay, peak_learning_rate.": lambda: jadam.adamw(lr=1e-3),
    "adamw: learning_rate is given twice, by position and by name.": lambda: jadam.adamw(1e-3, learning_rate=1e-3),
    "adamw: there is no wieght_decay; write weight_decay=0.1. It accepts learning_rate, b1, b2, eps, eps_root, "
    "eps_form, weight_decay, mask, decay, peak_learning_rate.": lambda: jadam.adamw(1e-3, wieght_decay=0.1),
    "adam: there is no amsgrad; jadam.amsgrad is an optimizer of its own. It accepts learning_rate, b1, b2, eps, "
    "eps_root, eps_form.": lambda: jadam.adam(1e-3, amsgrad=True),
    "adam: there is no weight_decay; put jadam.add_decayed_weights(...) before the learning rate in a chain, or "
    "take an optimizer that has it. It accepts learning_rate, b1, b2, eps, eps_root, eps_form.": lambda: jadam.adam(
        1e-3, weight_decay=0.1
    ),
    "adam: there is no mu_dtype; write jadam.with_precision(tx, state={'mu': 'bfloat16'}). It accepts "
    "learning_rate, b1, b2, eps, eps_root, eps_form.": lambda: jadam.adam(1e-3, mu_dtype=jnp.bfloat16),
    "adam: there is no momentum; write b1=0.9. It accepts learning_rate, b1, b2, eps, eps_root, eps_form.": lambda: jadam.adam(
        1e-3, momentum=0.9
    ),
    "adam: there is no fused; leave it out, XLA compiles the step. It accepts learning_rate, b1, b2, eps, "
    "eps_root, eps_form.": lambda: jadam.adam(1e-3, fused=True),
    "adam: there is no epsilon; write eps=1e-07. It accepts learning_rate, b1, b2, eps, eps_root, eps_form.": lambda: (
        jadam.adam(1e-3, epsilon=1e-7)
    ),
    "rmsprop: there is no alpha; write decay=0.99. It accepts learning_rate, decay, eps, centered, momentum.": lambda: (
        jadam.rmsprop(1e-3, alpha=0.99)
    ),
    "sgd: only learning_rate, momentum may be given by position; write dampening=True.": lambda: jadam.sgd(0.1, 0.9, True),
    "sgd(weight_decay=-1): weight_decay must be a finite number >= 0.": lambda: jadam.sgd(0.1, weight_decay=-1),
    "sgd: there is no maximize; to maximize, negate the loss. It accepts learning_rate, momentum, dampening, "
    "nesterov, weight_decay, mask.": lambda: jadam.sgd(0.1, maximize=True),
    "sgd: there is no accumulator_dtype; write jadam.with_precision(tx, state='bfloat16'). It accepts "
    "learning_rate, momentum, dampening, nesterov, weight_decay, mask.": lambda: jadam.sgd(0.1, accumulator_dtype="bfloat16"),
    "lion: there is no betas; write b1=..., b2=.... It accepts learning_rate, b1, b2, weight_decay, mask.": lambda: jadam.lion(
        1e-4, betas="0.9, 0.99"
    ),
    "amsgrad: there is no lr; write learning_rate=1. It accepts learning_rate, b1, b2, eps, maximum.": lambda: jadam.amsgrad(
        lr=1
    ),
    "adagrad: there is no global_clipnorm; write jadam.chain(jadam.clip_by_global_norm(...), tx). It accepts "
    "learning_rate, initial_accumulator_value, eps.": lambda: jadam.adagrad(1.0, global_clipnorm=1.0),
    "prodigy: only learning_rate, b1, b2 may be given by position; write b3=0.9.": lambda: jadam.prodigy(1.0, 0.9, 0.9, 0.9),
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
}
