"""Of rules, wrappers and pairs of one's own."""

from dataclasses import dataclass, make_dataclass

import jax.numpy as jnp

import jadam
from wrong_calls import TX, traced


@dataclass(frozen=True)
class Optioned(jadam.Rule):
    """A rule with one field of each kind."""

    table: tuple
    steps: int = 3
    label: str = "a"
    share: float = 0.5
    rate: jadam.Positive = 1.0
    either: int | bool = False

    def update(self, g, slots, p, h):
        return g, slots


class Unfinished(jadam.Rule):
    pass


def rule(**methods):
    """A rule that passes updates on, with other methods in the place of its own."""
    return jadam.chain(type("Own", (jadam.Rule,), {"update": lambda self, g, slots, p, h: (g, slots)} | methods)())


def around(method):
    """A wrapper with this method."""
    return jadam.wrap(type("Own", (jadam.Wrapper,), {"around": lambda self, inside: method(inside)})(), TX)


def pair(update):
    return jadam.chain(jadam.GradientTransformation(lambda params: (), update))


CALLS = {
    # what a block is made of
    "block: 3 is not a class of rules; write a subclass of jadam.Rule.": lambda: jadam.block(3),
    "block: dict is not a class of rules; write a subclass of jadam.Rule.": lambda: jadam.block(dict),
    "block: rule must be given; it accepts rule.": lambda: jadam.block(),
    "<lambda>: it returned 3, which is not a rule.": lambda: jadam.block(lambda: 3)(),
    "zeros: 3 is not an array; pass the parameter.": lambda: jadam.zeros(3),
    "zeros: p must be given; it accepts p.": lambda: jadam.zeros(),
    # fields
    "optioned(table=[1.0]): table must be hashable, such as a tuple in place of a list or an array.": lambda: Optioned([1.0]),
    "optioned(steps=1.5): steps must be an integer.": lambda: Optioned((1.0,), steps=1.5),
    "optioned(steps=True): steps must be an integer.": lambda: Optioned((1.0,), steps=True),
    "optioned(label=None): label must be a string.": lambda: Optioned((1.0,), label=None),
    "optioned(share='half'): share must be a number.": lambda: Optioned((1.0,), share="half"),
    "optioned(rate=None): rate must be a number or a schedule, not None.": lambda: Optioned((1.0,), rate=None),
    "optioned(rate=1e-50): rate must be between 1.2e-38 and 3.4e+38 in magnitude; in float32, in which it is "
    "kept, it is 0.": lambda: Optioned((1.0,), rate=1e-50),
    "optioned(either='a'): either must be an integer or True or False.": lambda: Optioned((1.0,), either="a"),
    "optioned: table must be given; it accepts table, steps, label, share, rate, either.": lambda: jadam.block(Optioned)(),
    "Own.name is what every rule has; call the field otherwise.": lambda: make_dataclass(
        "Own", [("name", str)], bases=(jadam.Rule,), frozen=True
    )("a"),
    "optioned: there is no size; it accepts table, steps, label, share, rate, either.": lambda: jadam.block(Optioned)(
        (1.0,), size=3
    ),
    "unfinished: class Unfinished must have a method update(self, g, slots, p, h).": jadam.block(Unfinished),
    # what its methods return
    "chain.init: Own.init must return a dictionary of arrays by name, such as {'mu': jadam.zeros(p)}, not a list.": lambda: (
        traced(rule(init=lambda self, p: [p]))
    ),
    "chain.init: Own.init must return a dictionary of arrays by name, such as {'mu': jadam.zeros(p)}; 'mu' is a "
    "float.": lambda: traced(rule(init=lambda self, p: {"mu": 0.0})),
    "chain.init: Own.scalars must return a dictionary of numbers or arrays by name, not ['age'].": lambda: traced(
        rule(scalars=lambda self: ["age"])
    ),
    "chain.init: Own.scalars must return a dictionary of numbers or arrays by name, not {'age': 'old'}.": lambda: traced(
        rule(scalars=lambda self: {"age": "old"})
    ),
    "chain.update: Own.prepare must return a dictionary of constants by name, not None.": lambda: traced(
        rule(prepare=lambda self, context: None)
    ),
    "chain.update: Own.prepare must return numbers and arrays; 'age' is 'old'.": lambda: traced(
        rule(prepare=lambda self, context: {"age": "old"})
    ),
    "chain.update: Own.prepare must return the next 'age' too, which its `scalars` keeps.": lambda: traced(
        rule(scalars=lambda self: {"age": 0.0})
    ),
    "chain.update: own keeps no slot 'mu' for all its parameters; `init` makes what it keeps.": lambda: traced(
        rule(prepare=lambda self, context: {"mu": context.slot("mu")})
    ),
    "chain.update: Own.update must return an array and a dictionary of slots, not an array.": lambda: traced(
        rule(update=lambda self, g, slots, p, h: g)
    ),
    "chain.update: Own.update must return an array and a dictionary of slots, not None.": lambda: traced(
        rule(update=lambda self, g, slots, p, h: None)
    ),
    "chain.update: Own.update must return an array and a dictionary of slots, not a tuple of a float, a dict.": lambda: traced(
        rule(update=lambda self, g, slots, p, h: (0.0, slots))
    ),
    "chain.update: Own.update must return an array and a dictionary of slots, not a tuple of an array, a list.": lambda: traced(
        rule(update=lambda self, g, slots, p, h: (g, []))
    ),
    "chain.update: Own.update must keep the shapes of update and slots: of {'update': (1,)} it made {'update': "
    "(1,), 'nu': (1,)}.": lambda: traced(rule(update=lambda self, g, slots, p, h: (g, {"nu": g}))),
    "chain.update: h has nothing, and no rate; annotate that as a hyperparameter, or return it from prepare.": lambda: traced(
        rule(update=lambda self, g, slots, p, h: (h.rate * g, slots))
    ),
    "chain.update: value is missing; call update(grads, state, params, value=...), and step alike.": lambda: traced(
        rule(prepare=lambda self, context: {"loss": context.extra["value"]})
    ),
    "chain.update: own keeps no scalar age; `scalars` makes what it keeps.": lambda: traced(
        rule(prepare=lambda self, context: {"age": context.scalars["age"] + 1})
    ),
    # wrappers of one's own
    "own.update: grad_fn is missing; call update(grads, state, params, grad_fn=...), and step alike.": lambda: traced(
        around(lambda inside: inside.extra["grad_fn"](inside.params))
    ),
    "own.update: own keeps no scalar age; `scalars` makes what it keeps.": lambda: traced(
        around(lambda inside: inside.scalars["age"])
    ),
    "own.update: Own.around must return what inside.run, stay or when returned, a dictionary of slots, and one "
    "of scalars, not None.": lambda: traced(around(lambda inside: None)),
    "own.update: Own.around must return what inside.run, stay or when returned, a dictionary of slots, and one "
    "of scalars, not a Done.": lambda: traced(around(lambda inside: inside.stay())),
    "own.update: Own.around must return what inside.run, stay or when returned, a dictionary of slots, and one "
    "of scalars, not a tuple of a Done, a dict.": lambda: traced(around(lambda inside: (inside.stay(), {}))),
    "own.update: Own.around must return what inside.run, stay or when returned, a dictionary of slots, and one "
    "of scalars, not a tuple of a list, a dict, a dict.": lambda: traced(around(lambda inside: (inside.updates, {}, {}))),
    "own.update: Own.around must return the slots that `init` makes, none, not 'mu'.": lambda: traced(
        around(lambda inside: (inside.stay(), {"mu": inside.updates}, {}))
    ),
    "own.update: Own.around must return the scalars that `scalars` makes, none, not 'age'.": lambda: traced(
        around(lambda inside: (inside.stay(), {}, {"age": 0.0}))
    ),
    "own.update: Own.around must run the inside on a list of 2 arrays, as inside.updates is.": lambda: traced(
        around(lambda inside: (inside.run(inside.updates[:1]), {}, {}))
    ),
    "own.update(how='if'): how must be 'cond', 'loop' or 'select'.": lambda: traced(
        around(lambda inside: (inside.when(jnp.asarray(True), inside.updates, how="if"), {}, {}))
    ),
    # pairs of one's own
    "chain.update: the update of <lambda>(...) must return the updates and the next state, not a dict.": lambda: traced(
        pair(lambda updates, state, params=None: updates)
    ),
    "chain.update: the update of <lambda>(...) must return updates with the structure and shapes of those that "
    "it receives.": lambda: traced(pair(lambda updates, state, params=None: (None, state))),
}
