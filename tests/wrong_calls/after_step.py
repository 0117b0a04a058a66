"""Of what sees the new parameter, and of multipliers by parameter."""

import jax
import jax.numpy as jnp

import jadam
from wrong_calls import ADAM, BIAS, PARAMS, traced

KERNEL = jadam.match("**/kernel")
LOGITS = jnp.ones(3)
QK = jadam.qk_clip(KERNEL, axis=-1)

CALLS = {
    # hyperball
    "hyperball: tx is 0.1, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.hyperball(0.1)
    ),
    "hyperball(radius='fixed'): radius must be 'initial' or 'current'.": lambda: jadam.hyperball(ADAM, radius="fixed"),
    "hyperball(axis=(0, 0)): axis must be an axis, or a tuple of different axes.": lambda: jadam.hyperball(ADAM, axis=(0, 0)),
    "hyperball.init: the parameter at dense/bias: a parameter has shape (1,), in which axis=(-2, -1) are not different axes; "
    "mask it out.": lambda: traced(jadam.hyperball(ADAM, True)),
    "hyperball.update: hyperball needs the learning rate, and the chain has none that acts on all its parameters; add "
    "scale_by_learning_rate(...), or put hyperball into each group of a partition.": lambda: traced(
        jadam.hyperball(jadam.scale_by_adam())
    ),
    "hyperball: of chain(scale_by_prodigy(b1=0.9, b2=0.999, b3=0.999499874937461, eps=1e-08, weight_decay=0.1, d_coef=1.0), "
    "scale_by_learning_rate(learning_rate=1.0)) the decay cannot be masked: prodigy decays by itself; write "
    "weight_decay=0.0.": lambda: jadam.hyperball(jadam.prodigy(1.0, weight_decay=0.1)),
    "chain.init: scale would change the update of dense/kernel after hyperball has said where the step lands; put hyperball "
    "last.": lambda: traced(jadam.chain(jadam.hyperball(ADAM), jadam.scale(0.5))),
    # projections
    "keep_params_nonnegative: '**/bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: (
        jadam.keep_params_nonnegative("**/bias")
    ),
    "keep_params_in_l2_ball(radius=0.0): radius must be a number > 0.": lambda: jadam.keep_params_in_l2_ball(0.0),
    "keep_params_in_simplex(scale=-1.0): scale must be a finite number > 0.": lambda: jadam.keep_params_in_simplex(-1.0),
    "keep_params_in_simplex.update: the parameter at dense/bias has shape (1,), in which axis=1 are not different axes; mask "
    "it out.": lambda: traced(jadam.keep_params_in_simplex(axis=1)),
    "project_params: projection is 1.0; give a function of one array that returns one like it.": lambda: jadam.project_params(
        1.0
    ),
    "project_params.update: the projection made an array of shape () of the parameter at dense/bias, which has (1,).": lambda: (
        traced(jadam.project_params(jnp.sum))
    ),
    # QK-clip
    "qk_clip: mask must be given; it accepts mask, threshold, axis, power.": lambda: jadam.qk_clip(),
    "qk_clip(threshold=0): threshold must be a finite number > 0.": lambda: jadam.qk_clip(True, 0),
    "qk_clip(power=0.0): power must be a finite number > 0.": lambda: jadam.qk_clip(True, power=0.0),
    "qk_clip.update: max_logits is missing; call update(grads, state, params, max_logits=...), and step alike.": lambda: traced(
        QK
    ),
    "qk_clip.update: max_logits for dense/kernel has shape (4,), and the parameter (3, 1), with heads on axis 0; its last axis "
    "must be heads, those before it the first of the parameter.": lambda: jadam.qk_clip(KERNEL, axis=0).update(
        PARAMS, QK.init(PARAMS), PARAMS, max_logits=jnp.ones(4)
    ),
    "qk_clip.update: max_logits has nothing for the parameter at dense/kernel: it has attn.": lambda: QK.update(
        PARAMS, QK.init(PARAMS), PARAMS, max_logits={"attn": LOGITS}
    ),
    "qk_clip.update: max_logits has 'a' at attn, which is not an array of real numbers.": lambda: QK.update(
        PARAMS, QK.init(PARAMS), PARAMS, max_logits={"attn": "a"}
    ),
    # a floor, and multipliers
    "floor_update_ratio(min_ratio=-1.0): min_ratio must be a finite number >= 0.": lambda: jadam.floor_update_ratio(-1.0),
    "scale_by_path: 0.5 is not a list of factors; write [(mask, number), ...], or a function of the parameters.": lambda: (
        jadam.scale_by_path(0.5)
    ),
    "scale_by_path: '**/bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: (
        jadam.scale_by_path([("**/bias", 0.5)])
    ),
    "scale_by_path: the factor of match('**/bias') is nan; give a finite number.": lambda: jadam.scale_by_path(
        [(BIAS, float("nan"))]
    ),
    "scale_by_path: the factor of match('**/bias') is polynomial_schedule(init_value=0.0, end_value=1.0, power=1.0, "
    "transition_steps=9, transition_begin=0); a schedule goes into masked(scale_by_schedule(...), mask).": lambda: (
        jadam.scale_by_path([(BIAS, jadam.linear_schedule(0.0, 1.0, 9))])
    ),
    "scale_by_path.update: the factor at dense/bias is 'slow'; give a finite number.": lambda: jadam.scale_by_path(
        lambda params: jax.tree.map(lambda _: "slow", params)
    ).update(PARAMS, None, PARAMS),
}
