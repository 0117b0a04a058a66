"""Of blocks."""

import jax.numpy as jnp

import jadam
from wrong_calls import BIAS, ONES, TX, traced

CALLS = {
    # names, positions, and what is missing
    "scale_by_adam: there is no beta1; write b1=0.9. It accepts b1, b2, eps, eps_root, eps_form.": lambda: jadam.scale_by_adam(
        beta1=0.9
    ),
    "scale_by_adam: only b1, b2, eps, eps_root may be given by position; write eps_form='standard'.": lambda: (
        jadam.scale_by_adam(0.9, 0.999, 1e-8, 0.0, "standard", 1)
    ),
    ("scale_by_belief: there is no betas; write b1=0.9, b2=0.999. It accepts b1, b2, eps, eps_root."): lambda: (
        jadam.scale_by_belief(betas=(0.9, 0.999))
    ),
    "scale_by_yogi: there is no epsilon; write eps=0.001. It accepts b1, b2, eps, initial_accumulator_value.": lambda: (
        jadam.scale_by_yogi(epsilon=1e-3)
    ),
    "clip: max_delta must be given; it accepts max_delta.": lambda: jadam.clip(),
    "clip: too many arguments; it accepts max_delta.": lambda: jadam.clip(1.0, 2.0),
    "clip: there is no max_norm; it accepts max_delta.": lambda: jadam.clip(max_norm=1.0),
    "clip_by_global_norm: there is no clip_norm; write max_norm=1.0. It accepts max_norm, eps, measured, axis_name.": lambda: (
        jadam.clip_by_global_norm(clip_norm=1.0)
    ),
    "clip_by_block_rms: threshold must be given; it accepts threshold.": lambda: jadam.clip_by_block_rms(),
    "reduce_on_plateau(factor=1.0): factor must be in (0, 1).": lambda: jadam.reduce_on_plateau(1.0),
    "reduce_on_plateau(patience=0): patience must be an integer in [1, 2**31).": lambda: jadam.reduce_on_plateau(patience=0),
    "reduce_on_plateau(rtol=1.0): rtol must be in [0, 1).": lambda: jadam.reduce_on_plateau(rtol=1.0),
    "reduce_on_plateau(atol=-1.0): atol must be a finite number >= 0.": lambda: jadam.reduce_on_plateau(atol=-1.0),
    "reduce_on_plateau: rtol or atol must be above 0: noise would be an improvement.": lambda: jadam.reduce_on_plateau(
        rtol=0.0
    ),
    "reduce_on_plateau(min_scale=2.0): min_scale must be in [0, 1].": lambda: jadam.reduce_on_plateau(min_scale=2.0),
    "reduce_on_plateau: there is no min_lr; write min_scale=1e-06. It accepts factor, patience, rtol, atol, cooldown, "
    "accumulation_size, min_scale.": lambda: jadam.reduce_on_plateau(min_lr=1e-6),
    "identity: too many arguments; it accepts no arguments.": lambda: jadam.identity(TX),
    "set_to_zero: too many arguments; it accepts no arguments.": lambda: jadam.set_to_zero(0),
    "scale_by_trust_ratio: there is no eps; optax.scale_by_trust_ratio, which works in jadam.chain, has it. It accepts no "
    "arguments.": lambda: jadam.scale_by_trust_ratio(min_norm=0.0, eps=1e-6),
    "scale: step_size must be given; it accepts step_size.": lambda: jadam.scale(),
    "trace: there is no momentum; it accepts decay, nesterov, dampening.": lambda: jadam.trace(momentum=0.9),
    # hyperparameters
    "clip(max_delta=0.0): max_delta must be a number > 0.": lambda: jadam.clip(0.0),
    "clip(max_delta=1e+39): max_delta must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in which it "
    "is kept, it is inf.": lambda: jadam.clip(1e39),
    "clip_by_block_rms(threshold=-1): threshold must be a number > 0.": lambda: jadam.clip_by_block_rms(-1),
    "clip_by_global_norm(max_norm=None): max_norm must be a number or a schedule, not None.": lambda: jadam.clip_by_global_norm(
        None
    ),
    "scale(step_size=None): step_size must be a number or a schedule, not None.": lambda: jadam.scale(None),
    "scale(step_size=inf): step_size must be a finite number.": lambda: jadam.scale(float("inf")),
    "scale(step_size='-1'): step_size must be a number or a schedule, not '-1'.": lambda: jadam.scale("-1"),
    "scale_by_learning_rate(learning_rate=inf): learning_rate must be a finite number.": lambda: jadam.scale_by_learning_rate(
        float("inf")
    ),
    "scale_by_schedule(step_size_fn=None): step_size_fn must be a number or a schedule, not None.": lambda: (
        jadam.scale_by_schedule(None)
    ),
    "trace(decay=1.0): decay must be in [0, 1).": lambda: jadam.trace(1.0),
    "ema(decay=1.5): decay must be in [0, 1).": lambda: jadam.ema(1.5),
    "ema(debias=1): debias must be True or False.": lambda: jadam.ema(0.9, 1),
    "ema: there is no accumulator_dtype; write jadam.with_precision(tx, state='bfloat16'). It accepts decay, debias.": lambda: (
        jadam.ema(0.9, accumulator_dtype=jnp.bfloat16)
    ),
    "add_decayed_weights(weight_decay=-0.1): weight_decay must be a finite number >= 0.": lambda: jadam.add_decayed_weights(
        -0.1
    ),
    "add_decayed_weights(weight_decay=match('**/bias')): weight_decay must be a number or a schedule, not a mask.": lambda: (
        jadam.add_decayed_weights(BIAS)
    ),
    "decay_after_step(weight_decay=None): weight_decay must be a number or a schedule, not None.": lambda: (
        jadam.decay_after_step(None)
    ),
    "scale_by_rms(decay=1.0): decay must be in [0, 1).": lambda: jadam.scale_by_rms(decay=1.0),
    "scale_by_rss(eps=None): eps must be a number or a schedule, not None.": lambda: jadam.scale_by_rss(eps=None),
    "scale_by_rss(initial_accumulator_value=None): initial_accumulator_value must be a finite number >= 0.": lambda: (
        jadam.scale_by_rss(initial_accumulator_value=None)
    ),
    "scale_by_adadelta(rho=True): rho must be a number or a schedule, not True.": lambda: jadam.scale_by_adadelta(rho=True),
    "scale_by_adamax(b2=1.0): b2 must be in [0, 1).": lambda: jadam.scale_by_adamax(b2=1.0),
    "scale_by_amsgrad(b1=nan): b1 must be in [0, 1).": lambda: jadam.scale_by_amsgrad(b1=float("nan")),
    "scale_by_nadam(momentum_decay=-1): momentum_decay must be a finite number >= 0.": lambda: jadam.scale_by_nadam(
        momentum_decay=-1
    ),
    "scale_by_nadamw(b2=2): b2 must be in [0, 1).": lambda: jadam.scale_by_nadamw(b2=2),
    "scale_by_radam(eps='1e-8'): eps must be a number or a schedule, not '1e-8'.": lambda: jadam.scale_by_radam(eps="1e-8"),
    "scale_by_adabound(gamma=-1): gamma must be a finite number >= 0.": lambda: jadam.scale_by_adabound(gamma=-1),
    "scale_by_adabound(final_learning_rate=1e-40): final_learning_rate must be between 1.2e-38 and 3.4e+38 in "
    "magnitude; in float32, in which it is kept, it is 0.": lambda: jadam.scale_by_adabound(final_learning_rate=1e-40),
    "scale_by_adan(b3=1.0): b3 must be in [0, 1).": lambda: jadam.scale_by_adan(b3=1.0),
    "scale_by_adopt(eps=-1e-06): eps must be a finite number >= 0.": lambda: jadam.scale_by_adopt(eps=-1e-6),
    "scale_by_ademamix(alpha=-2.0): alpha must be a finite number >= 0.": lambda: jadam.scale_by_ademamix(alpha=-2.0),
    "scale_by_adam_atan2(b=-1.0): b must be a finite number >= 0.": lambda: jadam.scale_by_adam_atan2(b=-1.0),
    "scale_by_laprop(b2=None): b2 must be a number or a schedule, not None.": lambda: jadam.scale_by_laprop(b2=None),
    "scale_by_mars(gamma=Array([1., 1., 1.], dtype=float32)): gamma must be a scalar, not of shape (3,); for "
    "several values at once, put `jax.vmap` around `init` and `update`, or use groups.": lambda: jadam.scale_by_mars(
        gamma=ONES
    ),
    "scale_by_stable_adamw(weight_decay=-1.0): weight_decay must be a finite number >= 0.": lambda: jadam.scale_by_stable_adamw(
        weight_decay=-1.0
    ),
    "scale_by_lion(b1=1): b1 must be in [0, 1).": lambda: jadam.scale_by_lion(b1=1),
    "scale_by_adafactor(beta2_decay=0.0): beta2_decay must be a finite number < 0.": lambda: jadam.scale_by_adafactor(
        beta2_decay=0.0
    ),
    "scale_by_factored_rms(decay_rate_fn=0.8): decay_rate_fn must be a function.": lambda: jadam.scale_by_factored_rms(
        decay_rate_fn=0.8
    ),
    "scale_by_factored_rms(decay_rate=0): decay_rate must be a finite number > 0.": lambda: jadam.scale_by_factored_rms(
        decay_rate=0
    ),
    "scale_by_adam_mini(b2=1.0): b2 must be in [0, 1).": lambda: jadam.scale_by_adam_mini(b2=1.0),
    "scale_by_prodigy(d_coef=0): d_coef must be a finite number > 0.": lambda: jadam.scale_by_prodigy(d_coef=0),
    "scale_by_muon(momentum=1.0): momentum must be in [0, 1).": lambda: jadam.scale_by_muon(momentum=1.0),
    "scale_by_soap(b1='0.95'): b1 must be a number or a schedule, not '0.95'.": lambda: jadam.scale_by_soap(b1="0.95"),
    # options
    "hold_first(steps=None): steps must be an integer in [1, 2**31).": lambda: jadam.hold_first(None),
    "hold_first(steps=0): steps must be an integer in [1, 2**31).": lambda: jadam.hold_first(0),
    "hold_first(steps=True): steps must be an integer in [1, 2**31).": lambda: jadam.hold_first(True),
    "hold_first(steps=1.5): steps must be an integer in [1, 2**31).": lambda: jadam.hold_first(1.5),
    "clip_by_global_norm(measured=1): measured must be True or False.": lambda: jadam.clip_by_global_norm(1.0, measured=1),
    "zclip(z_thresh=0): z_thresh must be a finite number > 0.": lambda: jadam.zclip(z_thresh=0),
    "zclip(z_thresh='2'): z_thresh must be a number or a schedule, not '2'.": lambda: jadam.zclip(z_thresh="2"),
    "zclip(alpha=1.0): alpha must be in [0, 1).": lambda: jadam.zclip(alpha=1.0),
    "zclip(warmup_steps=0): warmup_steps must be an integer in [1, 2**31).": lambda: jadam.zclip(warmup_steps=0),
    "zclip(eps=None): eps must be a finite number >= 0.": lambda: jadam.zclip(eps=None),
    "percentile_clip(percentile=100): percentile must be an integer in [0, 100).": lambda: jadam.percentile_clip(
        percentile=100
    ),
    "percentile_clip(percentile=0.5): percentile must be an integer in [0, 100).": lambda: jadam.percentile_clip(
        percentile=0.5
    ),
    "percentile_clip(history=0): history must be an integer in [1, 2**31).": lambda: jadam.percentile_clip(history=0),
    "clip_by_global_norm(eps=-1): eps must be a finite number >= 0.": lambda: jadam.clip_by_global_norm(1.0, eps=-1),
    "clip_by_global_norm(eps='a'): eps must be a finite number >= 0.": lambda: jadam.clip_by_global_norm(1.0, eps="a"),
    "scale_by_learning_rate(flip_sign='no'): flip_sign must be True or False.": lambda: jadam.scale_by_learning_rate(
        1.0, flip_sign="no"
    ),
    "trace(nesterov='no'): nesterov must be True or False.": lambda: jadam.trace(0.9, "no"),
    "add_decayed_weights(decay=None): decay must be 'decoupled', 'independent' or 'corrected'.": lambda: (
        jadam.add_decayed_weights(0.1, decay=None)
    ),
    "add_decayed_weights(decay='corrected'): give peak_learning_rate; the learning rate is not a number, and has "
    "no peak_value.": lambda: jadam.add_decayed_weights(0.1, decay="corrected"),
    "add_decayed_weights(peak_learning_rate='1.0'): peak_learning_rate must be a finite number > 0.": lambda: (
        jadam.add_decayed_weights(0.1, peak_learning_rate="1.0")
    ),
    "add_decayed_weights: 'bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: (
        jadam.add_decayed_weights(0.1, "bias")
    ),
    "decay_after_step(form=None): form must be 'decoupled', 'constant' or 'proximal'.": lambda: jadam.decay_after_step(
        0.1, form=None
    ),
    "scale_by_adam(eps_form='hat'): eps_form must be 'standard' or 'eps_hat'.": lambda: jadam.scale_by_adam(eps_form="hat"),
    "scale_by_muon(ns_steps=0): ns_steps must be an integer in [1, 2**31).": lambda: jadam.scale_by_muon(ns_steps=0),
    "scale_by_normuon(b2=1.0): b2 must be in [0, 1).": lambda: jadam.scale_by_normuon(b2=1.0),
    "scale_by_muon(ns_dtype=bfloat16): ns_dtype must be 'bfloat16', 'float16' or 'float32'.": lambda: jadam.scale_by_muon(
        ns_dtype=jnp.bfloat16
    ),
    "scale_by_soap(precondition_frequency=1.5): precondition_frequency must be an integer in [1, 2**31).": lambda: (
        jadam.scale_by_soap(precondition_frequency=1.5)
    ),
    "scale_by_prodigy(growth_rate=0): growth_rate must be a finite number >= 1.": lambda: jadam.scale_by_prodigy(growth_rate=0),
    "scale_by_adopt(use_clipping=None): use_clipping must be True or False.": lambda: jadam.scale_by_adopt(use_clipping=None),
    "adaptive_grad_clip(axis='a'): axis must be an axis, or a tuple of different axes.": lambda: jadam.adaptive_grad_clip(
        0.1, axis="a"
    ),
    "adaptive_grad_clip(axis=1.5): axis must be an axis, or a tuple of different axes.": lambda: jadam.adaptive_grad_clip(
        0.1, axis=1.5
    ),
    "adaptive_grad_clip(axis=(0, 0)): axis must be an axis, or a tuple of different axes.": lambda: jadam.adaptive_grad_clip(
        0.1, axis=(0, 0)
    ),
    "adaptive_grad_clip(axis=[0]): axis must be an axis, or a tuple of different axes.": lambda: jadam.adaptive_grad_clip(
        0.1, axis=[0]
    ),
    "adaptive_grad_clip(axis=True): axis must be an axis, or a tuple of different axes.": lambda: jadam.adaptive_grad_clip(
        0.1, axis=True
    ),
    "adaptive_grad_clip(eps=0.0): eps must be a finite number > 0.": lambda: jadam.adaptive_grad_clip(0.1, eps=0.0),
    # when parameters are seen
    "adaptive_grad_clip.update: the parameter at dense/bias has shape (1,), in which axis=5 are not different axes; mask "
    "it out.": lambda: traced(jadam.adaptive_grad_clip(0.1, axis=5)),
    "adaptive_grad_clip.update: the parameter at dense/bias has shape (1,), in which axis=(0, -2) are not different axes; mask "
    "it out.": lambda: traced(jadam.adaptive_grad_clip(0.1, axis=(0, -2))),
    "adaptive_grad_clip.update: the parameter at w has shape (1, 2, 3, 4, 5); with more than 4 axes, give "
    "adaptive_grad_clip axis= or matrices=.": lambda: traced(jadam.adaptive_grad_clip(0.1), {"w": jnp.ones((1, 2, 3, 4, 5))}),
    "decay_after_step.update: decay_after_step needs the learning rate, and the chain has none that acts on all "
    "its parameters; add scale_by_learning_rate(...), or put decay_after_step into each group of a partition.": lambda: traced(
        jadam.decay_after_step(0.1)
    ),
}
