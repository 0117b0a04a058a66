"""What answers a name that optax has and jadam has not: what to write instead, or that optax's works beside jadam."""

from __future__ import annotations

_STATE = "a state of jadam is one OptState"

INSTEAD = {
    # transformations and wrappers that jadam has in another way
    "multi_transform": "write jadam.partition(transforms, param_labels)",
    "inject_hyperparams": "hyperparameters are always in the state: write adamw(...), and tx.set_hyperparams(state, ...) or "
    "state.hyperparams['learning_rate'] = ...; optax.inject_hyperparams(jadam.adamw)(...) works too",
    "inject_stateful_hyperparams": "optax.inject_stateful_hyperparams(jadam.adamw)(...) works",
    "named_chain": "write jadam.chain(...), whose state is keyed by rule; optax.named_chain works too",
    "apply_if_finite": "write jadam.guard(tx), which skips what is not finite, and spikes; optax.apply_if_finite works too",
    "apply_every": "write jadam.accumulate(tx, k, reduction='sum')",
    "with_extra_args_support": "every transformation of jadam accepts keyword arguments in update",
    "stateless": "write jadam.GradientTransformation(init, update), or a jadam.Rule",
    "stateless_with_tree_map": "write a jadam.Rule, which sees one array at a time",
    "init_empty_state": "write lambda params: jadam.EmptyState()",
    "selective_transform": "write jadam.masked(tx, mask), or jadam.partition([(mask, jadam.freeze()), (True, tx)])",
    "conditionally_mask": "write a jadam.Wrapper; optax.conditionally_mask works in jadam.chain",
    "conditionally_transform": "write a jadam.Wrapper; optax.conditionally_transform works in jadam.chain",
    "adamaxw": "write jadam.chain(jadam.scale_by_adamax(), jadam.add_decayed_weights(...), jadam.scale_by_learning_rate(...))",
    "sign_sgd": "write jadam.lion(learning_rate, b1=0.0, b2=0.0)",
    "scale_by_sign": "write jadam.scale_by_lion(b1=0.0, b2=0.0)",
    "scale_by_stddev": "write jadam.scale_by_rms(centered=True)",
    "normalize_by_update_norm": "optax.normalize_by_update_norm works in jadam.chain",
    "scale_by_distance_over_gradients": "jadam.prodigy finds the learning rate too; the block of optax works in jadam.chain",
    "lars": "jadam.lamb scales by the same ratio; optax.lars works in jadam.chain",
    "zero_nans": "jadam.guard skips steps that are not finite; optax.zero_nans() works in jadam.chain",
    "snapshot": "optax.snapshot works in jadam.chain",
    "measure_with_ema": "optax.measure_with_ema works with optax.monitor, which works in jadam.chain",
    "piecewise_interpolate_schedule": "write jadam.join_schedules([jadam.linear_schedule(...), ...], boundaries)",
    "update_moment": "in a rule write h.b1.ema(m, g); optax.update_moment works beside jadam",
    "update_infinity_moment": "in a rule write jnp.maximum; optax.update_infinity_moment works beside jadam",
    "update_moment_per_elem_norm": "in a rule write h.b2.ema(v, g * g); optax.update_moment_per_elem_norm works beside jadam",
    "WrappedSchedule": "any function of the count is a schedule",
    "ShouldSkipUpdateFunction": "optax.ShouldSkipUpdateFunction describes what jadam.MultiSteps accepts",
    "skip_not_finite": "jadam.accumulate drops, and jadam.guard skips, what is not finite; optax.skip_not_finite works in "
    "jadam.MultiSteps",
    "skip_large_updates": "jadam.guard skips spikes; optax.skip_large_updates works in jadam.MultiSteps",
    "tree_map_params": "optax.tree_map_params(tx, f, state) works with jadam's transformations and states",
    "LookaheadParams": "jadam.lookahead takes the parameters alone: write params for params.fast, and "
    "state.slots['lookahead']['slow'] for params.slow",
    # state classes
    "LookaheadState": _STATE + ": write state.slots['lookahead']['slow']",
    "MultiStepsState": _STATE + ": write state.slots['accumulate']['mean'], and jadam.has_updated(state)",
    "InjectHyperparamsState": _STATE + ", with state.hyperparams['learning_rate']",
    "InjectStatefulHyperparamsState": _STATE + ", with state.hyperparams['learning_rate']",
    "ApplyIfFiniteState": _STATE + ", with state.scalars['guard']['skipped']",
    "MaskedState": _STATE + ", to which a mask adds nothing; slots have None where it is not",
    "MultiTransformState": _STATE + ", with the groups' names before those of rules: state.slots['body.adam']['mu']",
    "PartitionState": _STATE + ", with the groups' names before those of rules: state.slots['body.adam']['mu']",
    "EmaState": _STATE + ": write state.slots['ema']['ema'] and state.count",
    "TraceState": _STATE + ": write state.slots['trace']['trace']",
    "ScaleByScheduleState": _STATE + ": write state.count for its count",
    "ScaleByTrustRatioState": _STATE + ", in which this block keeps nothing",
    "ScaleState": _STATE + ", with state.hyperparams['scale.step_size']",
    "AddDecayedWeightsState": _STATE + ", with state.hyperparams['add_decayed_weights.weight_decay']",
    "ClipState": _STATE + ", with state.hyperparams['clip.max_delta']",
    "ClipByGlobalNormState": _STATE + ", with state.hyperparams['clip_by_global_norm.max_norm']",
    "AdaptiveGradClipState": _STATE + ", with state.hyperparams['adaptive_grad_clip.clipping']",
    "FactoredState": _STATE + ": write state.slots['factored_rms']['nu_row'], ['nu_col'] and ['nu']",
    **{
        name: f"{_STATE}: write state.slots[{key!r}]{slots} and state.count"
        for name, key, slots in (
            ("ScaleByAdamState", "adam", "['mu'], ['nu']"),
            ("ScaleByAdanState", "adan", "['mu'], ['delta'], ['nu']"),
            ("ScaleByAmsgradState", "amsgrad", "['mu'], ['nu'], ['nu_max']"),
            ("ScaleByAdaDeltaState", "adadelta", "['nu'], ['delta']"),
            ("ScaleByBeliefState", "belief", "['mu'], ['nu']"),
            ("ScaleByLionState", "lion", "['mu']"),
            ("ScaleByRStdDevState", "rms", "['mu'], ['nu']"),
            ("ScaleByRmsState", "rms", "['nu']"),
            ("ScaleByRssState", "rss", "['sum_of_squares']"),
        )
    },
    # submodules
    "schedules": "schedules are names of jadam itself: write jadam.linear_schedule(...); optax.schedules works beside jadam",
    "losses": "jadam has no losses; optax.losses works beside jadam",
    "projections": "jadam.keep_params_in_l2_ball, keep_params_in_simplex and keep_params_nonnegative project where a step "
    "lands; jadam.project_params does so with a function of optax.projections",
    "tree": "optax.tree works beside jadam: optax.tree.get, set and map_params read its states",
    "tree_utils": "optax.tree_utils works beside jadam: optax.tree_utils.tree_get and tree_set read its states",
    "contrib": "jadam has muon, prodigy, ademamix, adopt, schedule_free, sam, reduce_on_plateau and more itself; "
    "optax.contrib works in jadam.chain",
    "transforms": "its transformations are names of jadam itself, or work in jadam.chain as optax.transforms has them",
}
"""What to write for a name, where there is more to say than that optax's works."""

# fmt: off
IN_A_CHAIN = {
    "add_noise", "centralize", "fromage", "lbfgs", "noisy_sgd", "novograd", "optimistic_adam",
    "optimistic_adam_v2", "optimistic_gradient_descent", "per_example_global_norm_clip", "per_example_layer_norm_clip",
    "polyak_sgd", "rprop", "scale_by_backtracking_linesearch", "scale_by_lbfgs", "scale_by_novograd",
    "scale_by_optimistic_gradient", "scale_by_param_block_norm", "scale_by_param_block_rms", "scale_by_polyak",
    "scale_by_rprop", "scale_by_sm3", "scale_by_zoom_linesearch", "signum", "sm3", "flatten",
}
# fmt: on
"""Transformations of optax that jadam has nothing like."""

# fmt: off
BESIDE = {
    "assignment", "experimental", "microbatching", "perturbations", "second_order", "convex_kl_divergence",
    "cosine_distance", "cosine_similarity", "ctc_loss", "ctc_loss_with_forward_probs", "generalized_kl_divergence",
    "hinge_loss", "huber_loss", "kl_divergence", "l2_loss", "log_cosh", "ntxent", "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy", "sigmoid_focal_loss", "smooth_labels", "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels", "squared_error", "matrix_inverse_pth_root", "microbatch", "multi_normal",
    "nnls", "power_iteration", "safe_norm", "safe_root_mean_squares", "scale_gradient", "value_and_grad_from_state",
    "ZoomLinesearchInfo", "AddNoiseState", "ApplyEvery", "ConditionallyMaskState",
    "ConditionallyTransformState", "MonitorState", "NonNegativeParamsState", "SnapshotState",
    "ScaleByBacktrackingLinesearchState", "ScaleByLBFGSState", "ScaleByNovogradState", "ScaleByRpropState",
    "ScaleBySM3State", "ScaleByZoomLinesearchState", "ZeroNansState",
}
# fmt: on
"""What else works beside jadam: losses, tools, and the states of transformations that jadam has nothing like."""


def answer(name: str) -> str:
    """What to write for a name of optax; nothing for any other."""
    if name in INSTEAD:
        return INSTEAD[name]
    if name in IN_A_CHAIN:
        return f"optax.{name} works in jadam.chain, and around jadam's transformations if it takes one"
    return f"optax.{name} works beside jadam" if name in BESIDE else ""
