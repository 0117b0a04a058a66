"""Steps that are skipped, so that one bad batch does not spoil a run: NaN, inf, and spikes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from jadam._annotations import AxisName, Option
from jadam._chain import TransformationLike, builder, wrap
from jadam._derivatives import root
from jadam._errors import BadValue, door
from jadam._hyper import Bound, Count
from jadam._schedules.fields import not_a_number
from jadam._shards import varying
from jadam._state import scalars_with
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree
from jadam._wrapper import Inside, Outcome, Wrapper

Fraction = Annotated[float, Option.of_number("in (0, 1]", lambda x: 0 < x <= 1)]
LARGEST = 2.0**60
"""As which a number counts that is larger: its square is a number of float32."""


@dataclass(frozen=True)
class Guard(Wrapper):
    """Skips steps whose gradients or loss are not finite, or far above what they were."""

    sigma_factor: Bound = 6.0
    window: Count = 128
    warmup_steps: Count = 64
    max_consecutive_skips: Count = 10
    backoff_factor: Fraction = 1.0
    recovery_steps: Count = 100
    axis_name: AxisName = None

    def scalars(self) -> dict[str, Any]:
        levels = {f"{what}_{name}": 0.0 for what in ("norm", "value") for name in ("mean", "var", "seen")}
        counters = {"skipped": 0.0, "skipped_in_a_row": 0.0, "diverged": 0.0}
        return levels | counters | ({"rate_factor": 1.0} if self.backoff_factor < 1 else {})

    def around(self, inside: Inside) -> tuple[Outcome, dict[str, list[Array]], dict[str, Array]]:
        old, rate = inside.scalars, None
        dtype = old["skipped"].dtype
        good, levels = self._accepts("norm", inside.norm.astype(dtype), inside)
        if (value := inside.extra.get("value")) is not None:
            low, more = self._accepts("value", _checked(value, dtype), inside)
            good, levels = good & low, levels | more
        in_a_row = jnp.where(good, 0, old["skipped_in_a_row"] + 1)
        scalars = {name: old[name] for name in self.scalars()} | levels
        scalars |= {
            "skipped": old["skipped"] + jnp.where(good, 0, 1),
            "skipped_in_a_row": in_a_row,
            "diverged": jnp.where(in_a_row >= self.max_consecutive_skips, 1, 0),
        }
        if (fall := self.backoff_factor) < 1:
            rate = old["rate_factor"]
            risen = jnp.minimum(rate * fall ** (-1 / self.recovery_steps), 1)
            scalars["rate_factor"] = jnp.where(good, risen, jnp.maximum(rate * fall, fall**self.max_consecutive_skips))
        # A select, since nearly every step counts: it is fused into the loops that write the state, which read the old one.
        return inside.when(good, inside.updates, how="select", rate=rate), {}, scalars

    def _accepts(self, what: str, x: Array, inside: Inside) -> tuple[Array, dict[str, Array]]:
        """Whether a number is finite and not far above its mean; and that mean, the variance, and how many they are of."""
        old = {name: inside.scalars[f"{what}_{name}"] for name in ("mean", "var", "seen")}
        mean, seen = old["mean"], old["seen"]
        # Numbers that are equal but for rounding have a sigma too small to be of use: it is a thousandth of the mean at least.
        sigma = jnp.maximum(root(old["var"]), 1e-3 * jnp.abs(mean))
        unknown = (seen < self.warmup_steps) | (sigma == 0)
        limit = jnp.where(unknown, jnp.inf, mean + inside.h.sigma_factor * sigma)
        weight = 1 / (jnp.minimum(seen, self.window - 1) + 1)
        # A spike counts as the limit: it does not blind the guard for another, and what has risen for good is accepted soon.
        apart = jnp.clip(jnp.minimum(x, limit), -LARGEST, LARGEST) - mean
        new = {
            "mean": mean + weight * apart,
            "var": (1 - weight) * (old["var"] + weight * apart**2),
            "seen": jnp.minimum(seen + 1, max(self.window, self.warmup_steps)),
        }
        finite = jnp.isfinite(x)
        return finite & (x <= limit), {f"{what}_{name}": jnp.where(finite, new[name], old[name]) for name in new}


def _checked(value: Any, dtype: Any) -> Array:
    """The loss, which must be a real scalar."""
    if words := not_a_number(value):
        raise BadValue(f"value must be the loss, a real scalar, not {words}.")
    if axes := varying(value):
        along = ", ".join(map(repr, axes))
        raise BadValue(f"value differs between devices along {along}; average it first: jax.lax.pmean(value, ({along},)).")
    return jnp.asarray(value, dtype)


@builder
def guard(
    tx: TransformationLike,
    *,
    sigma_factor: Bound = 6.0,
    window: Count = 128,
    warmup_steps: Count = 64,
    max_consecutive_skips: Count = 10,
    backoff_factor: Fraction = 1.0,
    recovery_steps: Count = 100,
    axis_name: AxisName = None,
) -> GradientTransformation:
    """Skips steps that would spoil a run: those with a NaN or inf, and spikes of the gradient norm or the loss.

    A step is skipped if the global norm of the gradients is not finite, or greater than `mean + sigma_factor * sigma` of the
    norms before it; and so for the loss, where it is passed on: `tx.update(grads, state, params, value=loss)`. Updates are zero
    then, and the state of `tx` stays as it is to the bit: its count and schedules too. A step that is not skipped is the step
    of `tx`, to the bit.

    Mean and variance are of all numbers so far, until these are as many as `window`; after that each new number has the weight
    `1 / window`. A spike counts with the limit in its place. So one does not hide the next, and a level that has risen for good
    is accepted after a few skips. What is not finite does not count.

    Gradients cost one reduction for this, and a clip right inside uses the same one. `guard` may stand in a chain or a group,
    where it watches what reaches it, and around or inside other wrappers; but inside `loss_scale`, whose gradients it could not
    judge. `has_diverged` says that something is wrong which skipping does not help.

    Args:
        tx: a transformation, or any `(init, update)` pair.
        sigma_factor: how many standard deviations above the mean is too much, > 0; inf for no limit, so that only what is not
            finite is skipped. A standard deviation counts as a thousandth of the mean at least.
        window: the effective number of steps of the mean and variance, >= 1.
        warmup_steps: steps before any is taken for a spike, >= 1.
        max_consecutive_skips: skips in a row from which on `has_diverged` is true, >= 1. Skipping goes on.
        backoff_factor: by which every skip multiplies the learning rates inside, in (0, 1]. They are multiplied where they act:
            `hyperparams` shows them as they were given, and what does not depend on them, such as `decay="independent"`, stays.
        recovery_steps: good steps after which the effect of one skip on the learning rate is gone, >= 1.
        axis_name: inside `jax.shard_map`, the axis of the mesh, or several, along which devices have parts of the parameters:
            all skip a step together. None where arrays are whole, as under `jax.jit`, on however many devices.

    Raises:
        ValueError: an argument is out of its range; when a step is traced, `value` is not a real scalar, `loss_scale` is
            inside, or there is no learning rate for `backoff_factor`.

    Reference:
        The limits are those of OLMo 2 (OLMo et al. 2024, arXiv:2501.00656), whose code skips at 6 standard deviations of 128
        steps.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.guard(jadam.adamw(1e-3)), {"w": jnp.ones(2)}
        >>> state = tx.init(params)
        >>> bad = {"w": jnp.array([jnp.nan, 1.0])}
        >>> params, state = tx.step(bad, state, params, value=jnp.float32(0.3))
        >>> params["w"], state.count, state.scalars["guard"]["skipped"]
        (Array([1., 1.], dtype=float32), Array(0, dtype=int32), Array(1., dtype=float32))
    """
    wrapper = Guard(
        sigma_factor=sigma_factor,
        window=window,
        warmup_steps=warmup_steps,
        max_consecutive_skips=max_consecutive_skips,
        backoff_factor=backoff_factor,
        recovery_steps=recovery_steps,
        axis_name=axis_name,
    )
    return wrap(wrapper, tx)


@door
def has_diverged(state: PyTree) -> Array:
    """Whether a `guard` has skipped `max_consecutive_skips` steps in a row, up to the last one: a bool scalar.

    Args:
        state: an `OptState`, or a tree with one inside. Of several guards, any counts.

    Raises:
        ValueError: the state is of no `guard`.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.guard(jadam.sgd(0.1), max_consecutive_skips=2), jnp.ones(2)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     _, state = tx.update(params * jnp.inf, state, params)
        >>> jadam.has_diverged(state)
        Array(True, dtype=bool)
    """
    found = [kept["diverged"] > 0 for kept in scalars_with(state, Guard().scalars())]
    if not found:
        raise BadValue("the state is of no guard; build the transformation with jadam.guard(tx).")
    return functools.reduce(jnp.logical_or, found)
