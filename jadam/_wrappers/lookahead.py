"""Lookahead: k steps forward, one step back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._chain import TransformationLike, builder, chain, wrap
from jadam._hyper import Count, Share
from jadam._rows import DENSE
from jadam._rule import Context, Rule, Slots
from jadam._transformation import GradientTransformation
from jadam._wrapper import Inside, Outcome, Wrapper


@dataclass(frozen=True)
class Lookahead(Rule):
    """Lets parameters run ahead, and brings them back towards where they started every so many steps."""

    sync_period: Count
    slow_step_size: Share

    positions: ClassVar[tuple[str, ...]] = ("slow",)
    keeps_zeros: ClassVar[bool] = True

    @property
    def needs_all_rows(self) -> str:
        return f"brings every row back at the end of a period, and not those alone that a batch touches; {DENSE}"

    def init(self, p: Array) -> Slots:
        return {"slow": jnp.copy(p)}

    def prepare(self, context: Context) -> dict[str, Array]:
        return {"due": (context.count + 1) % self.sync_period == 0}

    def squares(self, shape: tuple[int, ...]) -> int:
        return 0

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        fast = p + g
        back = (1 - h.slow_step_size) * (slots["slow"] - fast)
        return jnp.where(h.due, g + back, g), {"slow": jnp.where(h.due, fast + back, slots["slow"])}


@dataclass(frozen=True)
class Restart(Wrapper):
    """Runs the inside, whose state is the initial one again after every so many steps."""

    every: Count

    def around(self, inside: Inside) -> tuple[Outcome, dict[str, list[Array]], dict[str, Array]]:
        outcome, due = inside.run(inside.updates), inside.count + 1 >= self.every
        return jax.tree.map(lambda new, old: lax.select(due, new, old), inside.restarted(outcome), outcome), {}, {}


@builder
def lookahead(
    fast_optimizer: TransformationLike, sync_period: Count, slow_step_size: Share, reset_state: bool = False
) -> GradientTransformation:
    """Steps forward with an optimizer, and every `sync_period` steps back to between where it is and where it started.

    `slow = slow + slow_step_size (params - slow); params = slow` at every `sync_period`-th step. The slow weights are in the
    state, one float32 array more for each parameter; after such a step the parameters are the slow weights, so that
    evaluation is best then. Updates that are changed afterwards are not those of the paper: put it last in a chain.

    Args:
        fast_optimizer: a transformation, which runs ahead.
        sync_period: after how many steps it comes back, >= 1; 5 to 10 in the paper.
        slow_step_size: how much of the way ahead is kept, in [0, 1], or a schedule; 0.5 or 0.8 in the paper.
        reset_state: whether the optimizer has its initial state again whenever it came back, its count and schedules too.

    Raises:
        ValueError: an argument is out of its range; when a step is traced, it has no parameters.

    Reference:
        Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.lookahead(jadam.sgd(1.0), sync_period=2, slow_step_size=0.5), {"w": jnp.zeros(())}
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     params, state = tx.step({"w": jnp.asarray(-1.0)}, state, params)
        ...     print(params["w"])
        1.0
        1.0
        2.0
    """
    fast = wrap(Restart(every=sync_period), fast_optimizer) if reset_state else fast_optimizer
    return chain(fast, Lookahead(sync_period=sync_period, slow_step_size=slow_step_size))
