"""What says where a step lands comes last: nothing may change its updates afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from jadam._after_step import AfterStep
from jadam._engine.plan import Placed, Plan
from jadam._errors import BadValue
from jadam._rule import Rule
from jadam._wrapper import Wrapper


def check_order(plan: Plan) -> None:
    """Refuses a part after an `AfterStep` that may change updates of the same parameter, and is not one too."""
    _check(plan, plan.row, {})


def _check(plan: Plan, row: Sequence[Placed], landed: dict[int, str]) -> None:
    for one in row:
        if isinstance(one.rule, Wrapper):  # which hands updates to the row inside, and changes none after it
            _check(plan, one.inner, landed)
        elif isinstance(one.rule, AfterStep):
            landed |= dict.fromkeys(one.at, one.rule.name)
        elif (again := landed.keys() & set(one.at)) and not (isinstance(one.rule, Rule) and one.rule.observes):
            i = min(again)
            raise BadValue(
                f"{one.rule.name} would change the update of {plan.path(i)} after {landed[i]} has said where the step lands; "
                f"put {landed[i]} last."
            )
