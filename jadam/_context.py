"""What a rule or a wrapper sees of a step besides its own array: hyperparameters, and what all leaves share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from jax import Array

from jadam._dtypes import cast, decode
from jadam._errors import BadValue


class Named(dict[str, Any]):
    """Things by name, of which one that is not there is an error in words."""

    def __init__(self, values: Mapping[str, Any], words: str):
        super().__init__(values)
        self.words = words

    def __missing__(self, name: str) -> Any:
        raise BadValue(self.words.replace("{missing}", name))


def extra(values: Mapping[str, Any]) -> Named:
    """The keyword arguments of a step."""
    return Named(values, "{missing} is missing; call update(grads, state, params, {missing}=...), and step alike.")


def scalars_of(owner: Any, values: Mapping[str, Any]) -> Named:
    """The scalars of a rule or wrapper."""
    return Named(values, f"{owner.name} keeps no scalar {{missing}}; `scalars` makes what it keeps.")


class H(SimpleNamespace):
    """The hyperparameters and constants of a rule or wrapper, by name: what it knows as `h`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # as `copy` and `pickle` ask
            raise AttributeError(name)
        there = ", ".join(vars(self)) or "nothing"
        raise BadValue(f"h has {there}, and no {name}; annotate that as a hyperparameter, or return it from prepare.")


@dataclass(frozen=True)
class Context:
    """What `Rule.prepare` sees: everything that all leaves of a step share.

    Attributes:
        h: this rule's hyperparameters by name; a `Decay` is a `DecayRate`.
        count: int32, updates done before this one.
        t: the number of this update, from 1, in the dtype of the hyperparameters.
        scalars: what `prepare` kept in the last step.
        extra: the keyword arguments of `tx.update`.
        reader: the engine, which reads leaves for the rule `of` when they are asked for.
        of: the rule in its place.
    """

    h: Any
    count: Array
    t: Array
    scalars: Mapping[str, Array]
    extra: Mapping[str, Any]
    reader: Any
    of: Any

    @property
    def learning_rate(self) -> Array:
        """The learning rate that this rule's parameters have at this step: the next one in the chain, else the last before.

        Raises:
            ValueError: the chain has none that acts on all of them.
        """
        return self.reader.learning_rate(self.of)

    @property
    def updates(self) -> list[Array]:
        """The updates that reach this rule, leaf by leaf, as its `update` sees them. The rules before it run first."""
        return [self.reader.bound(self.of, decode(u)) for u in self.reader.whole_updates(self.of)]

    @property
    def finite(self) -> Array:
        """Whether there is neither NaN nor inf in the updates that reach this rule."""
        return self.reader.squares(self.of).finite

    @property
    def params(self) -> list[Array]:
        """The parameters this rule acts on, in the order of `updates`.

        Raises:
            ValueError: `tx.update` was called without them.
        """
        return self.reader.params(self.of)

    def slot(self, name: str) -> list[Array]:
        """A slot of this rule, in the order of `updates`."""
        return self.reader.slot(self.of, name)

    @property
    def norm(self) -> Array:
        """The global norm of `updates`."""
        return cast(self.reader.norm(self.of), self.t.dtype)
