"""Of chains and wrappers: what stands inside them, and their options."""

import jadam
from wrong_calls import ADAM, BIAS, HUGE, NO_FLOAT, ONES, PAIR, PARAMS, STATE, TX, Always


def weigh(**extra):
    tx = jadam.accumulate(TX, 2)
    return tx.step(PARAMS, tx.init(PARAMS), PARAMS, **extra)


def watch(value):
    tx = jadam.guard(TX)
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=value)


def skipped(function):
    tx = jadam.MultiSteps(TX, 2, should_skip_update_fn=function)
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)


CALLS = {
    # what is not a transformation
    "chain: argument 0 is a list; for several transformations in a row, write jadam.chain(*items).": lambda: jadam.chain(
        [ADAM, TX]
    ),
    "chain: argument 0 is a tuple; for several transformations in a row, write jadam.chain(*items).": lambda: jadam.chain(
        (ADAM, TX)
    ),
    "masked: inner is a tuple; for several transformations in a row, write jadam.chain(*items).": lambda: jadam.masked(
        (jadam.clip, jadam.adam), True
    ),
    "chain: argument 0 is 'ab', which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.chain("ab")
    ),
    "chain: argument 0 is (1, 2), which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.chain((1, 2))
    ),
    "chain: argument 0 is {'w': 1, 'b': 2}, which is not a transformation; give one of jadam's, or an (init, "
    "update) pair.": lambda: jadam.chain({"w": 1, "b": 2}),
    "chain: argument 0 is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.chain(None)
    ),
    "chain: argument 0 is the function clip_by_global_norm; call it: clip_by_global_norm(...).": lambda: jadam.chain(
        jadam.clip_by_global_norm, TX
    ),
    "chain: argument 1 is the function adam; call it: adam(...).": lambda: jadam.chain(TX, jadam.adam),
    "chain: argument 0 is the class Rule; call it: Rule(...).": lambda: jadam.chain(jadam.Rule),
    "chain: argument 0 is constant_schedule(value=1.0), which is not a transformation; give one of jadam's, or "
    "an (init, update) pair.": lambda: jadam.chain(jadam.constant_schedule(1.0)),
    "chain: argument 0 is a wrapper; put a transformation into it: jadam.wrap(always(), tx).": lambda: jadam.chain(Always()),
    "chain: there is no a; it accepts *transformations.": lambda: jadam.chain(a=TX),
    "masked: inner is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.masked(None, True)
    ),
    "masked: inner is 'ab', which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.masked("ab", True)
    ),
    "masked: inner is the function adam; call it: adam(...).": lambda: jadam.masked(jadam.adam, True),
    "masked: inner is a list; for several transformations in a row, write jadam.chain(*items).": lambda: jadam.masked(
        [ADAM, TX], True
    ),
    "masked: mask must be given; it accepts inner, mask.": lambda: jadam.masked(TX),
    "partition: the transformation of group '0' is None, which is not a transformation; give one of jadam's, "
    "or an (init, update) pair.": lambda: jadam.partition([(True, None)]),
    "partition: the transformation of group '1' is the function adam; call it: adam(...).": lambda: jadam.partition(
        [(BIAS, TX), (True, jadam.adam)]
    ),
    "partition: the transformation of group 'a' is a list; for several transformations in a row, write "
    "jadam.chain(*items).": lambda: jadam.partition({"a": [ADAM, TX]}, {"dense": "a"}),
    "freeze: 'bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: jadam.freeze("bias"),
    "freeze: too many arguments; it accepts mask.": lambda: jadam.freeze(BIAS, TX),
    "wrap: None is not a Wrapper; write a subclass of jadam.Wrapper.": lambda: jadam.wrap(None, TX),
    "wrap: Always is not a Wrapper; call it: Always(...).": lambda: jadam.wrap(Always, TX),
    "wrap: chain(scale_by_adam(b1=0.9, b2=0.999, eps=1e-08, eps_root=0.0), "
    "add_decayed_weights(weight_decay=0.01), scale_by_learning_rate(learning_rate=0.001)) is not a Wrapper; "
    "write a subclass of jadam.Wrapper.": lambda: jadam.wrap(TX, Always()),
    "wrap: inner is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: jadam.wrap(
        Always(), None
    ),
    "wrap: inner is the function adam; call it: adam(...).": lambda: jadam.wrap(Always(), jadam.adam),
    "wrap: inner must be given; it accepts wrapper, inner.": lambda: jadam.wrap(Always()),
    "GradientTransformation: init, update must be given; it accepts init, update.": lambda: jadam.GradientTransformation(),
    "GradientTransformation: update must be given; it accepts init, update.": lambda: jadam.GradientTransformation(len),
    "GradientTransformation: init and update must be functions, not None and len.": lambda: jadam.GradientTransformation(
        None, len
    ),
    # cautious, cautious_weight_decay
    "cautious: tx is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.cautious(None)
    ),
    "cautious: tx is 'adam', which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.cautious("adam")
    ),
    "cautious: tx is the function adam; call it: adam(...).": lambda: jadam.cautious(jadam.adam),
    "cautious: a _Stranger is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) around it.": lambda: (
        jadam.cautious(PAIR)
    ),
    "cautious: tx is a list; for several transformations in a row, write jadam.chain(*items).": lambda: jadam.cautious(
        [ADAM, TX]
    ),
    "cautious: tx must be given; it accepts tx.": lambda: jadam.cautious(),
    "cautious: too many arguments; it accepts tx.": lambda: jadam.cautious(TX, 0.5),
    "cautious: <lambda>(...) makes the direction, and may have a learning rate; put scale_by_learning_rate after it.": lambda: (
        jadam.cautious(jadam.chain(PAIR))
    ),
    "cautious_weight_decay: tx is None, which is not a transformation; give one of jadam's, or an (init, update) "
    "pair.": lambda: jadam.cautious_weight_decay(None),
    "cautious_weight_decay: tx is the function adamw; call it: adamw(...).": lambda: jadam.cautious_weight_decay(jadam.adamw),
    "cautious_weight_decay: a _Stranger is not a jadam transformation; write jadam.adam(...), or "
    "jadam.chain(...) around it.": lambda: jadam.cautious_weight_decay(PAIR),
    # with_precision
    "with_precision: tx is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.with_precision(None, "int8")
    ),
    "with_precision: tx is the function adam; call it: adam(...).": lambda: jadam.with_precision(jadam.adam, "int8"),
    "with_precision: tx is 'int8', which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.with_precision("int8", TX)
    ),
    "with_precision: a _Stranger is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) "
    "around it.": lambda: jadam.with_precision(PAIR, "int8"),
    "with_precision: the slots of <lambda>(...) come from elsewhere; use an optimizer of jadam for another storage.": lambda: (
        jadam.with_precision(jadam.chain(PAIR), "int8")
    ),
    "with_precision(state=8): 8 must be one of float32, bfloat16, int8.": lambda: jadam.with_precision(TX, 8),
    "with_precision(state=['int8']): ['int8'] must be one of float32, bfloat16, int8.": lambda: jadam.with_precision(
        TX, ["int8"]
    ),
    "with_precision(state={'mu': None}): None must be one of float32, bfloat16, int8.": lambda: jadam.with_precision(
        TX, {"mu": None}
    ),
    "with_precision(state={'mu': 'int4'}): 'int4' must be one of float32, bfloat16, int8.": lambda: jadam.with_precision(
        TX, {"mu": "int4"}
    ),
    "with_precision(params='int8'): 'int8' must be one of nearest, stochastic, kahan, remainder.": lambda: jadam.with_precision(
        TX, params="int8"
    ),
    "with_precision(params=True): params must be a string.": lambda: jadam.with_precision(TX, params=True),
    "with_precision(rounding=None): rounding must be a string.": lambda: jadam.with_precision(TX, "int8", rounding=None),
    "with_precision(rounding='up'): 'up' must be one of stochastic, nearest.": lambda: jadam.with_precision(
        TX, "int8", rounding="up"
    ),
    "with_precision(min_size=-1): min_size must be an integer >= 0.": lambda: jadam.with_precision(TX, "int8", min_size=-1),
    "with_precision(min_size=True): min_size must be an integer >= 0.": lambda: jadam.with_precision(TX, "int8", min_size=True),
    "with_precision(seed=1.5): seed must be an integer.": lambda: jadam.with_precision(TX, "int8", seed=1.5),
    "with_precision(kernel='triton'): 'triton' must be one of xla, pallas.": lambda: jadam.with_precision(TX, kernel="triton"),
    "with_precision(kernel=True): kernel must be a string.": lambda: jadam.with_precision(TX, kernel=True),
    "with_precision: only tx, state, params may be given by position; write rounding='nearest'.": lambda: jadam.with_precision(
        TX, "int8", None, "nearest"
    ),
    "with_precision: there is no dtype; it accepts tx, state, params, rounding, min_size, seed, kernel.": lambda: (
        jadam.with_precision(TX, dtype="int8")
    ),
    "with_precision: tx must be given; it accepts tx, state, params, rounding, min_size, seed, kernel.": lambda: (
        jadam.with_precision()
    ),
    # loss_scale, schedule_free
    "loss_scale: tx is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.loss_scale(None)
    ),
    "loss_scale: tx is the function adam; call it: adam(...).": lambda: jadam.loss_scale(jadam.adam),
    "loss_scale: only tx may be given by position; write init_scale=2.0.": lambda: jadam.loss_scale(TX, 2.0),
    "loss_scale: there is no initial_scale; write init_scale=2.0. It accepts tx, init_scale, growth_interval, "
    "growth_factor, backoff_factor, min_scale, max_scale, axis_name.": lambda: jadam.loss_scale(TX, initial_scale=2.0),
    "loss_scale(init_scale=None): init_scale must be a finite number > 0.": lambda: jadam.loss_scale(TX, init_scale=None),
    "loss_scale(init_scale=1e+39): init_scale must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in "
    "which it is kept, it is inf.": lambda: jadam.loss_scale(TX, init_scale=1e39),
    "loss_scale: init_scale must be between min_scale and max_scale: 1 <= 1.07374e+09 <= 1.67772e+07 is not true.": lambda: (
        jadam.loss_scale(TX, init_scale=2.0**30)
    ),
    "loss_scale(growth_interval=None): growth_interval must be an integer in [1, 2**31).": lambda: jadam.loss_scale(
        TX, growth_interval=None
    ),
    "loss_scale(growth_interval=True): growth_interval must be an integer in [1, 2**31).": lambda: jadam.loss_scale(
        TX, growth_interval=True
    ),
    "loss_scale(growth_factor='2'): growth_factor must be a finite number > 1.": lambda: jadam.loss_scale(
        TX, growth_factor="2"
    ),
    "loss_scale(backoff_factor=True): backoff_factor must be in (0, 1).": lambda: jadam.loss_scale(TX, backoff_factor=True),
    "loss_scale(min_scale=None): min_scale must be a finite number > 0.": lambda: jadam.loss_scale(TX, min_scale=None),
    "loss_scale(max_scale=Array([1., 1., 1.], dtype=float32)): max_scale must be a finite number > 0.": lambda: (
        jadam.loss_scale(TX, max_scale=ONES)
    ),
    # guard, monitor, metrics
    "guard: tx is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: jadam.guard(
        None
    ),
    "guard: tx is the function adam; call it: adam(...).": lambda: jadam.guard(jadam.adam),
    "guard: only tx may be given by position; write sigma_factor=3.0.": lambda: jadam.guard(TX, 3.0),
    "guard: there is no max_skips; write max_consecutive_skips=3. It accepts tx, sigma_factor, window, warmup_steps, "
    "max_consecutive_skips, backoff_factor, recovery_steps, axis_name.": lambda: jadam.guard(TX, max_skips=3),
    "guard(sigma_factor=-1): sigma_factor must be a number > 0.": lambda: jadam.guard(TX, sigma_factor=-1),
    "guard(sigma_factor=None): sigma_factor must be a number or a schedule, not None.": lambda: jadam.guard(
        TX, sigma_factor=None
    ),
    "guard(window=0): window must be an integer in [1, 2**31).": lambda: jadam.guard(TX, window=0),
    "guard(warmup_steps=True): warmup_steps must be an integer in [1, 2**31).": lambda: jadam.guard(TX, warmup_steps=True),
    "guard(max_consecutive_skips=2.5): max_consecutive_skips must be an integer in [1, 2**31).": lambda: jadam.guard(
        TX, max_consecutive_skips=2.5
    ),
    "guard(backoff_factor=2): backoff_factor must be in (0, 1].": lambda: jadam.guard(TX, backoff_factor=2),
    "guard(backoff_factor='half'): backoff_factor must be in (0, 1].": lambda: jadam.guard(TX, backoff_factor="half"),
    "guard(recovery_steps=0): recovery_steps must be an integer in [1, 2**31).": lambda: jadam.guard(TX, recovery_steps=0),
    "guard.update: value must be the loss, a real scalar, not an array of shape (3,).": lambda: watch(ONES),
    "guard.update: value must be the loss, a real scalar, not 'a'.": lambda: watch("a"),
    "guard.update: value must be the loss, a real scalar, not an array of dtype bool.": lambda: watch(True),
    "guard.update: value must be the loss, a real scalar, not an array of dtype complex64.": lambda: watch(1j),
    "guard.update: value must be the loss, a real scalar, not {}.": lambda: watch({}),
    # What is traced was shown as JitTracer(int32[]).
    "guard.update: value must be the loss, a real scalar, not {'loss': int32[]}.": lambda: watch({"loss": 1}),
    f"guard.update: value must be the loss, a real scalar, not {NO_FLOAT}.": lambda: watch(HUGE),
    "has_diverged: the state is of no guard; build the transformation with jadam.guard(tx).": lambda: jadam.has_diverged(
        TX.init(PARAMS)
    ),
    "monitor: tx is 5, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: jadam.monitor(
        5
    ),
    "monitor(by_leaf=1): by_leaf must be True or False.": lambda: jadam.monitor(TX, by_leaf=1),
    "monitor: only tx may be given by position; write by_leaf=True.": lambda: jadam.monitor(TX, True),
    "monitor.update: monitor needs the parameters; call update(grads, state, params), not update(grads, state).": lambda: (
        jadam.monitor(jadam.sgd(0.1)).update(PARAMS, jadam.monitor(jadam.sgd(0.1)).init(PARAMS))
    ),
    "metrics: a dict has no state of jadam inside; pass what tx.init or tx.update returned.": lambda: jadam.metrics(PARAMS),
    "metrics: a NoneType has no state of jadam inside; pass what tx.init or tx.update returned.": lambda: jadam.metrics(None),
    "schedule_free: tx is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.schedule_free(None)
    ),
    "schedule_free: tx is the function sgd; call it: sgd(...).": lambda: jadam.schedule_free(jadam.sgd),
    "schedule_free(b1=None): b1 must be a number or a schedule, not None.": lambda: jadam.schedule_free(TX, b1=None),
    "schedule_free(b1=1.0): b1 must be in [0, 1).": lambda: jadam.schedule_free(TX, b1=1.0),
    "schedule_free(warmup_steps=-1): warmup_steps must be a finite number >= 0.": lambda: jadam.schedule_free(
        TX, warmup_steps=-1
    ),
    "schedule_free(r='0'): r must be a number or a schedule, not '0'.": lambda: jadam.schedule_free(TX, r="0"),
    "schedule_free(weight_lr_power=-1.0): weight_lr_power must be a finite number >= 0.": lambda: jadam.schedule_free(
        TX, weight_lr_power=-1.0
    ),
    "schedule_free: only tx may be given by position; write b1=0.9.": lambda: jadam.schedule_free(TX, 0.9),
    # average, lookahead, sam
    "average: tx is the function adam; call it: adam(...).": lambda: jadam.average(jadam.adam),
    "average(decay=1.0): decay must be in [0, 1).": lambda: jadam.average(TX, 1.0),
    "average(decay='mean'): decay must be a number or a schedule or 'uniform'.": lambda: jadam.average(TX, "mean"),
    "average(start=-1): start must be an integer in [0, 2**31).": lambda: jadam.average(TX, start=-1),
    "average(every=0): every must be an integer in [1, 2**31).": lambda: jadam.average(TX, every=0),
    "average(debias=1): debias must be True or False.": lambda: jadam.average(TX, debias=1),
    "average: only tx, decay may be given by position; write start=10.": lambda: jadam.average(TX, 0.9, 10),
    "average: there is no update_every; write every=2. It accepts tx, decay, start, every, debias.": lambda: jadam.average(
        TX, update_every=2
    ),
    "averaged_params: the state has no average; it must be of an `average`.": lambda: jadam.averaged_params(STATE, PARAMS),
    "averaged_params: the state has another structure than the parameters: it was made for other ones.": lambda: (
        jadam.averaged_params(jadam.average(TX).init(PARAMS), {"dense": PARAMS["dense"]["kernel"]})
    ),
    "averaged_params: the state was made for other parameters: average has shape (1,) at dense/bias, and the parameter (3,).": (
        lambda: jadam.averaged_params(jadam.average(TX).init(PARAMS), {"dense": PARAMS["dense"] | {"bias": ONES}})
    ),
    "averaged_params: the parameter at dense/bias has two averages; one must be inside no other.": lambda: (
        jadam.averaged_params(jadam.average(jadam.average(TX)).init(PARAMS), PARAMS)
    ),
    "lookahead: fast_optimizer is the function adam; call it: adam(...).": lambda: jadam.lookahead(jadam.adam, 5, 0.5),
    "lookahead: sync_period, slow_step_size must be given; it accepts fast_optimizer, sync_period, slow_step_size, "
    "reset_state.": lambda: jadam.lookahead(TX),
    "lookahead(sync_period=0): sync_period must be an integer in [1, 2**31).": lambda: jadam.lookahead(TX, 0, 0.5),
    "lookahead(sync_period=2.5): sync_period must be an integer in [1, 2**31).": lambda: jadam.lookahead(TX, 2.5, 0.5),
    "lookahead(slow_step_size=1.5): slow_step_size must be in [0, 1].": lambda: jadam.lookahead(TX, 5, 1.5),
    "lookahead(reset_state=None): reset_state must be True or False.": lambda: jadam.lookahead(TX, 5, 0.5, None),
    "sam: tx is the function adam; call it: adam(...).": lambda: jadam.sam(jadam.adam),
    "sam(rho=-0.05): rho must be a finite number >= 0.": lambda: jadam.sam(TX, rho=-0.05),
    "sam(adaptive='yes'): adaptive must be True or False.": lambda: jadam.sam(TX, adaptive="yes"),
    "sam(eta=None): eta must be a finite number >= 0.": lambda: jadam.sam(TX, eta=None),
    "sam.step: grad_fn must be a function of the parameters that returns gradients.": lambda: jadam.sam(TX).step(
        PARAMS, jadam.sam(TX).init(PARAMS), PARAMS, grad_fn=3
    ),
    "sam: only tx may be given by position; write rho=0.05.": lambda: jadam.sam(TX, 0.05),
    # accumulate, MultiSteps
    "accumulate: tx is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.accumulate(None, 2)
    ),
    "accumulate: tx is the function adam; call it: adam(...).": lambda: jadam.accumulate(jadam.adam, 2),
    "accumulate: every must be given; it accepts tx, every, reduction, nonfinite, how, rows, axis_name.": lambda: (
        jadam.accumulate(TX)
    ),
    "accumulate(every=0): every must be an integer in [1, 2**24].": lambda: jadam.accumulate(TX, 0),
    "accumulate(every=1.5): every must be an integer in [1, 2**24].": lambda: jadam.accumulate(TX, 1.5),
    "accumulate(every=inf): every must be an integer in [1, 2**24].": lambda: jadam.accumulate(TX, float("inf")),
    "accumulate(every=True): every must be a number or a schedule, not True.": lambda: jadam.accumulate(TX, True),
    "accumulate(every='8'): every must be a number or a schedule, not '8'.": lambda: jadam.accumulate(TX, "8"),
    "accumulate(every=Array([1., 1., 1.], dtype=float32)): every must be a scalar, not of shape (3,); for several values at "
    "once, put `jax.vmap` around `init` and `update`, or use groups.": lambda: jadam.accumulate(TX, ONES),
    "accumulate(reduction='average'): reduction must be 'mean' or 'sum'.": lambda: jadam.accumulate(TX, 2, reduction="average"),
    "accumulate(nonfinite='skip'): nonfinite must be 'drop', 'drop_window' or 'keep'.": lambda: jadam.accumulate(
        TX, 2, nonfinite="skip"
    ),
    "accumulate(how='select'): how must be 'loop' or 'cond'.": lambda: jadam.accumulate(TX, 2, how="select"),
    "accumulate.init: the schedule of accumulate.every returned 0.5; it must be an integer in [1, 2**24].": lambda: (
        jadam.accumulate(TX, lambda count: 0.5).init(PARAMS)
    ),
    "accumulate.step(weight=-1.0): weight must be a finite number >= 0.": lambda: weigh(weight=-1.0),
    "accumulate.step(weight=nan): weight must be a finite number >= 0.": lambda: weigh(weight=float("nan")),
    "accumulate.step: weight must be a number, not an array of shape (3,).": lambda: weigh(weight=ONES),
    "accumulate.step: weight must be a number, not True.": lambda: weigh(weight=True),
    "accumulate.step: weight must be a number, not 'a'.": lambda: weigh(weight="a"),
    f"accumulate.step: weight must be a number, not {NO_FLOAT}.": lambda: weigh(weight=HUGE),
    "MultiSteps: opt is None, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.MultiSteps(None, 2)
    ),
    "MultiSteps: every_k_schedule must be given; it accepts opt, every_k_schedule, use_grad_mean, "
    "should_skip_update_fn.": lambda: jadam.MultiSteps(TX),
    "MultiSteps(every_k_schedule=0): every_k_schedule must be an integer in [1, 2**24].": lambda: jadam.MultiSteps(TX, 0),
    "MultiSteps(use_grad_mean=2): use_grad_mean must be True or False.": lambda: jadam.MultiSteps(TX, 2, use_grad_mean=2),
    "MultiSteps(should_skip_update_fn=True): should_skip_update_fn must be a function.": lambda: jadam.MultiSteps(
        TX, 2, should_skip_update_fn=True
    ),
    "MultiSteps.update: should_skip_update_fn must return a bool scalar array and a state, as optax.skip_not_finite "
    "does.": lambda: skipped(lambda *_: True),
    "flush: a NoneType is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) around it.": lambda: (
        jadam.flush(None, None, PARAMS)
    ),
    "flush: tx has no accumulate, whose window could end.": lambda: jadam.flush(TX, TX.init(PARAMS), PARAMS),
    "flush: params must be given; it accepts tx, state, params.": lambda: jadam.flush(TX, TX.init(PARAMS)),
    # what is asked of a transformation or a state
    "describe: a NoneType is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) around it.": lambda: (
        jadam.describe(None, PARAMS)
    ),
    "describe: a _Stranger is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) around it.": lambda: (
        jadam.describe(PAIR, PARAMS)
    ),
    "describe(depth=0): depth must be an integer >= 1, or None for all that there is.": lambda: jadam.describe(
        TX, PARAMS, depth=0
    ),
    "describe(fold=1): fold must be True or False.": lambda: jadam.describe(TX, PARAMS, fold=1),
    "describe: only tx, params may be given by position; write depth=2.": lambda: jadam.describe(TX, PARAMS, 2),
    "check_precision: a function is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) "
    "around it.": lambda: jadam.check_precision(jadam.adam, PARAMS),
    "check_precision: the learning rate must be a finite number >= 0, or a schedule with such a peak_value.": lambda: (
        jadam.check_precision(TX, PARAMS, 10**400)
    ),
    "state_shardings: params must be given; it accepts tx, params, data, memory_kind.": lambda: jadam.state_shardings(TX),
    "global_norm: updates has 'a', a str, at w, which is not an array; take it out of the tree, or put None in "
    "its place.": lambda: jadam.global_norm({"w": "a"}),
}
