"""An average of updates in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array

from jadam._chain import block
from jadam._hyper import Decay
from jadam._rule import Context, Rule, Slots, zeros


@dataclass(frozen=True)
class Ema(Rule):
    """Replaces updates by their exponential moving average from zero: `m = decay m + (1-decay) g`.

    In a rule of your own write `h.b1.ema(m, g)` instead.

    Args:
        decay: of the average, in [0, 1).
        debias: whether it is divided by `1 - decay^t`.
    """

    decay: Decay
    debias: bool = True

    def init(self, p: Array) -> Slots:
        return {"ema": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        return {"scale": 1 / context.h.decay.debias(context.t)} if self.debias else {}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = h.decay.ema(slots["ema"], g)
        return (m * h.scale if self.debias else m), {"ema": m}


ema = block(Ema)
