"""What a run is watched by: norms of gradients, updates and parameters, kept in the state for `metrics`."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax
from jax.core import max_dim

from jadam._annotations import AxisName
from jadam._chain import TransformationLike, builder, recipe_of, wrap
from jadam._derivatives import root
from jadam._recipe import Pair, Part
from jadam._rule import Slots, zeros
from jadam._shards import over_parts, varying
from jadam._transformation import GradientTransformation
from jadam._wrapper import Inside, Outcome, Wrapper


@dataclass(frozen=True)
class Monitor(Wrapper):
    """Keeps the norms of a step."""

    by_leaf: bool = False
    signal_to_noise: bool = False
    axis_name: AxisName = None

    exact: ClassVar[tuple[str, ...]] = ("grad_norm", "update_norm", "param_norm")

    @property
    def elementwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.by_leaf

    @property
    def needs_all_rows(self) -> str:
        return ""  # of a table, norms are those of the rows that a step touches

    def init(self, p: Array) -> Slots:
        return {name: jnp.zeros((), zeros(p).dtype) for name in self.exact} if self.by_leaf else {}

    def scalars(self) -> dict[str, Any]:
        names = (*self.exact, "update_ratio", *(["signal_to_noise"] if self.signal_to_noise else []))
        return dict.fromkeys(names, 0.0)

    def around(self, inside: Inside) -> tuple[Outcome, dict[str, list[Array]], dict[str, Array]]:
        norm, norms = inside.norm, inside.norms if self.by_leaf else []
        norm = jnp.where(inside.finite, _representable(norm), norm)
        outcome = inside.run(inside.updates, measured=True)
        sums = over_parts([x for pair in inside.moved(outcome) for x in pair])
        updates, params = sums[::2], sums[1::2]
        update_norm, param_norm = _norm(updates, norm), _norm(params, norm)
        there = param_norm > 0
        scalars = {
            "grad_norm": norm,
            "update_norm": update_norm,
            "param_norm": param_norm,
            "update_ratio": jnp.where(there, _representable(update_norm / jnp.where(there, param_norm, 1)), 0),
        }
        if self.signal_to_noise:
            scalars["signal_to_noise"] = _signal_to_noise(inside.kept(outcome, ["mu", "nu"]), norm)
        by_leaf = {"grad_norm": norms, "update_norm": list(map(root, updates)), "param_norm": list(map(root, params))}
        by_leaf = {name: list(map(_representable, column)) for name, column in by_leaf.items()}
        return outcome, by_leaf if self.by_leaf else {}, scalars


def _measuring(part: Part) -> Part:
    return part if isinstance(part.rule, Pair) else replace(part, rule=part.rule.measuring())


def _norm(sums: list[Array], like: Array) -> Array:
    """The norm of all leaves by the sums of each."""
    return _representable(root(functools.reduce(lax.add, [x.astype(like.dtype) for x in sums], jnp.zeros_like(like))))


def _representable(norm: Array) -> Array:
    """A norm of numbers so large that it has no number itself counts as the largest: a state stays finite if gradients are."""
    return jnp.minimum(norm, float(jnp.finfo(norm.dtype).max))


def _signal_to_noise(moments: list[tuple[Array, ...]], like: Array) -> Array:
    """The mean of `|mu| / sqrt(nu)` over all elements; 0 where nothing has come yet, or there are none."""
    ratios = [jnp.where(nu > 0, jnp.abs(mu) * lax.rsqrt(jnp.where(nu > 0, nu, 1)), 0) for mu, nu in moments]
    elements = max_dim(sum(lax.psum(x.size, axes) if (axes := varying(x)) else x.size for x in ratios), 1)
    return sum((x.astype(like.dtype) for x in over_parts(list(map(jnp.sum, ratios)))), jnp.zeros_like(like)) / elements


@builder
def monitor(
    tx: TransformationLike, *, by_leaf: bool = False, signal_to_noise: bool = False, axis_name: AxisName = None
) -> GradientTransformation:
    """Keeps in the state what a run is watched by: `metrics(state)` shows it. The steps are those of `tx`, to the bit.

    | name | what it is, at the last step |
    |---|---|
    | `grad_norm` | the global norm of the gradients that reach the monitor |
    | `update_norm` | of what was added to the parameters, as they are stored: 0 where a `guard` inside skipped |
    | `param_norm` | of the parameters before it |
    | `update_ratio` | `update_norm / param_norm`; some 1e-3 in a healthy run |

    Clips by global norm inside keep `clipped_norm`, the norm after clipping, and `clipped_share`, the share of steps that were
    clipped, of the `measured_steps` since the monitor is there, under their own names: `clip_by_global_norm.clipped_share`.
    `guard`, `loss_scale` and rules that keep scalars show theirs without it. For the norms of a group, put a `monitor` into the
    group: `partition({"body": monitor(tx1), ...})` has `body.grad_norm`.

    Gradients cost one reduction, which clips and guards inside share. With `tx.step` on an H100 or a TPU, the other norms are
    summed in the kernels that write the parameters. On CPU the norms cost a pass of their own: 17 bytes a parameter beside the
    44 of AdamW with a clip, where parameters are large and in float32; elsewhere, and with a `guard` inside, 20.

    Squares are summed in float32: numbers below 1e-19 are lost in the norms of updates and parameters, and a norm above 1e19
    counts as the largest number there is.

    Args:
        tx: a transformation, or any `(init, update)` pair.
        by_leaf: whether the norms of every parameter are kept too: `grad_norm/dense/kernel`. Not of complex ones.
        signal_to_noise: whether `signal_to_noise` is kept too: the mean of `|mu| / sqrt(nu)` over all parameters of rules that
            have both slots, such as Adam's. They are taken as they are kept, without the correction of their bias; it is 0
            where there are no elements. It costs a pass over them.
        axis_name: inside `jax.shard_map`, the axis of the mesh, or several, along which devices have parts of the parameters,
            whose squares are added up. None where arrays are whole, as under `jax.jit`, on however many devices.

    Raises:
        ValueError: `tx.update` is called without the parameters; there are no moments for `signal_to_noise`.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx = jadam.monitor(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.sgd(0.1)))
        >>> params = {"w": jnp.array([3.0, 4.0])}
        >>> params, state = tx.step(params, tx.init(params), params)
        >>> {name: round(value, 3) for name, value in jadam.metrics(state).items()}  # doctest: +NORMALIZE_WHITESPACE
        {'clip_by_global_norm.clipped_norm': 1.0, 'clip_by_global_norm.clipped_share': 1.0,
         'clip_by_global_norm.measured_steps': 1.0, 'grad_norm': 5.0, 'learning_rate': 0.1, 'param_norm': 5.0,
         'update_norm': 0.1, 'update_ratio': 0.02}
    """
    inside = GradientTransformation.of(recipe_of("tx", tx).map(_measuring))
    return wrap(Monitor(by_leaf=by_leaf, signal_to_noise=signal_to_noise, axis_name=axis_name), inside)
