"""Warm restarts and the one-cycle policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jadam._errors import BadType, door
from jadam._schedules.decays import Tail, linear_schedule
from jadam._schedules.fields import Positive, SomeSteps, Value
from jadam._schedules.schedule import Composed, Schedule, join_schedules, schedule
from jadam._schedules.warmups import warmup_cosine_decay_schedule


@door
def sgdr_schedule(cosine_kwargs: Sequence[Mapping[str, Any]]) -> Schedule:
    """Warm restarts: `warmup_cosine_decay_schedule`s one after another, each `decay_steps` long.

    Args:
        cosine_kwargs: the arguments of each cycle.

    Reference:
        Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983.
    """
    listed = isinstance(cosine_kwargs, Sequence) and all(isinstance(kwargs, Mapping) for kwargs in cosine_kwargs)
    if not (listed and cosine_kwargs):
        raise BadType("{name} must be a list of dicts, one for each cycle.", cosine_kwargs=cosine_kwargs)
    cycles = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cosine_kwargs]
    ends = np.cumsum([cycle.decay_steps for cycle in cycles])[:-1]
    return join_schedules(cycles, [int(end) for end in ends])


class _OneCycle(Composed):
    pct_start: float

    def _check(self) -> None:
        self._require(0 < self.pct_start < 1, "pct_start", "must be in (0, 1)")


@schedule
class linear_onecycle_schedule(_OneCycle):
    """Lines from `peak_value / div_factor` up to the peak, down again, and on to a `final_div_factor`-th of the start.

    Args:
        transition_steps: length of the cycle, > 0.
        peak_value: the highest value.
        pct_start: the fraction of the cycle that rises, in (0, 1).
        pct_final: where the second descent begins, a fraction in (pct_start, 1].
        div_factor: peak / first value, > 0.
        final_div_factor: first / last value, > 0.

    Reference:
        Smith & Topin 2018, arXiv:1708.07120.
    """

    transition_steps: SomeSteps
    peak_value: Value
    pct_start: Value = 0.3
    pct_final: Value = 0.85
    div_factor: Positive = 25.0
    final_div_factor: Positive = 1e4

    def _check(self) -> None:
        super()._check()
        self._require(self.pct_start < self.pct_final <= 1, "pct_final", "must be in (pct_start, 1]")

    def pieces(self) -> Schedule:
        first = self.peak_value / self.div_factor
        ends = [int(part * self.transition_steps) for part in (self.pct_start, self.pct_final, 1.0)]
        values = [first, self.peak_value, first, first / self.final_div_factor]
        starts = [0, *ends[:-1]]
        lines = [linear_schedule(a, b, end - start) for a, b, start, end in zip(values, values[1:], starts, ends, strict=False)]
        return join_schedules(lines, ends[:-1])


@schedule
class cosine_onecycle_schedule(_OneCycle):
    """Half a cosine from `peak_value / div_factor` up to the peak, and another down to `peak / (div * final_div)`.

    Args:
        transition_steps: length of the cycle, > 0.
        peak_value: the highest value.
        pct_start: the fraction of the cycle that rises, in (0, 1).
        div_factor: peak / first value, > 0.
        final_div_factor: first / last value, > 0.

    Reference:
        Smith & Topin 2018, arXiv:1708.07120.
    """

    transition_steps: SomeSteps
    peak_value: Value
    pct_start: Value = 0.3
    div_factor: Positive = 25.0
    final_div_factor: Positive = 1e4

    def pieces(self) -> Schedule:
        first, top = self.peak_value / self.div_factor, int(self.pct_start * self.transition_steps)
        rise = Tail(first, self.peak_value, top, "cosine")
        fall = Tail(self.peak_value, first / self.final_div_factor, self.transition_steps - top, "cosine")
        return join_schedules([rise, fall], [top])
