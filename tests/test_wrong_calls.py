"""Errors say where, what, and what to write instead, in the words of the function that was called."""

import importlib
import inspect
import math
import pkgutil
import re
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import wrong_calls
from support import NAMESPACE, OPTIMIZERS
from wrong_calls import traced

import jadam
from jadam import GradientTransformation
from jadam._errors import Misuse
from jadam._hyper import options

AREAS = [importlib.import_module(f"wrong_calls.{module.name}") for module in pkgutil.iter_modules(wrong_calls.__path__)]
CALLS = {message: call for area in AREAS for message, call in area.CALLS.items()}
PUBLIC = {
    name: thing
    for name, thing in NAMESPACE.items()
    if (inspect.isfunction(thing) and not name.startswith("_"))
    or (isinstance(thing, type) and issubclass(thing, jadam.Schedule) and thing is not jadam.Schedule)
}
BUILDERS = {
    name: function
    for name, function in PUBLIC.items()
    if inspect.isfunction(function)
    and inspect.signature(function).return_annotation in ("GradientTransformation", GradientTransformation)
}


def test_no_message_stands_twice():
    assert len(CALLS) == sum(len(area.CALLS) for area in AREAS)


@pytest.mark.parametrize("message", CALLS)
def test_wrong_call(message):
    with pytest.raises(Misuse) as error:  # never an error that JAX or Python raised
        CALLS[message]()
    assert str(error.value) == message


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_function_refuses_something(name):
    assert any(re.match(rf"{name}\b", message) for message in CALLS), f"add a wrong call of {name} to tests/wrong_calls/"


def refused(call, *names):
    """The message of a wrong call, which is jadam's own and names what is wrong."""
    with pytest.raises(Misuse) as error:
        call()
    assert all(name in str(error.value) for name in names), str(error.value)
    assert "{name}" not in str(error.value)
    return str(error.value)


NO_LEARNING_RATES = [
    *(
        None,
        "a",
        b"1",
        True,
        np.True_,
        jnp.asarray(True),
        1j,
        np.complex64(1),
        jnp.complex64(1),
        object(),
        float,
        {},
        [],
        [1e-3],
    ),
    *(math.nan, math.inf, -math.inf, 1e39, np.float64(1e39), 10**400, -(10**400)),
    *(1e-50, jnp.float32(1e-40), np.ones(3), jnp.ones(1), jadam.match("w"), jadam.sgd(1.0), jadam.sgd, jadam.constant_schedule),
]


NEGATIVE = [-1, -1e-3, np.float32(-1), jnp.float32(-1)]
MORE_THAN_A_FACTOR = {"adabound", "adafactor", "laprop", "prodigy", "schedule_free_adamw"}
"""Optimizers that compare, average or take a power of their learning rate."""


def test_what_is_not_a_learning_rate(optimizer):
    """1e39 was inf in the state, True was 1.0, a class was asked for a value as a schedule is."""
    never_negative = optimizer.__name__ in MORE_THAN_A_FACTOR
    for value in () if never_negative else NEGATIVE:
        optimizer(value)
    for value in [*NO_LEARNING_RATES, *(NEGATIVE if never_negative else ())]:
        assert refused(lambda value=value: optimizer(value), "learning_rate").startswith(f"{optimizer.__name__}(")
    for value in (0.0, 0, 1e-30, 1e38, np.float64(0.1), np.int32(1), jnp.float32(0.1), jnp.bfloat16(0.1), lambda count: 0.1):
        optimizer(value)


def test_none_is_taken_where_it_is_the_default_alone():
    """`adamw(decay=None)` was "independent", `adam(eps_form=None)` "eps_hat"."""
    tried = 0
    for name, build in BUILDERS.items():
        for option, parameter in inspect.signature(build).parameters.items():
            if option in ("mask", "matrices") or parameter.kind is parameter.VAR_POSITIONAL:
                continue  # as a mask, None is all parameters; as matrices, what the tree tells
            if parameter.default is None:
                build(*positional(build), **{option: None})
            elif parameter.default is not parameter.empty:
                words = refused(lambda: build(*positional(build), **{option: None}), option, "must")  # noqa: B023
                assert words.startswith(name)
                tried += 1
    assert tried > 200


def positional(build):
    """Arguments for what must be given."""
    given = dict.fromkeys(["tx", "inner", "fast_optimizer"], jadam.adamw(0.1)) | {"transforms": [(True, jadam.adamw(0.1))]}
    given |= {"sync_period": 5, "every": 2}
    required = [name for name, p in inspect.signature(build).parameters.items() if p.default is p.empty]
    return [given.get(name, 0.1) for name in required if name not in ("transformations", "mask")]


def test_every_option_has_words():
    """A field that nothing restricts must at least be hashable, since programs are cached by it."""
    rules = {type(place.part.rule) for build in OPTIMIZERS.values() for place in build(0.1).recipe.all}
    found = {option: note for rule in rules for option, note in options(rule)}
    assert {"eps_form", "decay", "nesterov", "scale", "precondition_frequency", "growth_rate"} <= set(found)
    assert all(note.words for note in found.values())
    for rule in rules:
        assert all(note.words != "hashable, such as a tuple in place of a list or an array" for _, note in options(rule)), rule


def test_numbers_that_only_float64_holds(x64):
    """What float32 makes 0 or inf is refused, unless the state is float64; that is known when parameters are seen."""
    tx = jadam.adam(1e-3, eps=1e-50)
    wide, narrow = {"w": jnp.ones(2)}, {"w": jnp.ones(2, "float32")}
    updates, state = tx.update({"w": jnp.zeros(2)}, tx.init(wide), wide)
    assert not updates["w"].any()
    assert "float32" in refused(lambda: tx.init(narrow), "adam.init(eps=1e-50)")
    refused(lambda: tx.update(narrow, jadam.adam(1e-3).init(narrow), narrow), "adam.update(eps=1e-50)")
    refused(lambda: jadam.adam(1e-3, eps=1e-320), "float64")
    assert tx.set_hyperparams(state, eps=1e-60)
    refused(lambda: jadam.adam(1.0).set_hyperparams(jadam.adam(1.0).init(narrow), eps=1e-60), "eps", "float32")


def test_an_error_of_the_users_own_stays():
    """Only a call that does not fit the signature is put in other words."""

    def raises(count):
        return len(count)

    with pytest.raises(TypeError, match="has no len") as error:
        jadam.adam(raises).init({"w": jnp.ones(2)})
    assert not isinstance(error.value, Misuse)


def test_the_same_words_for_a_traced_number():
    with pytest.raises(Misuse, match=r"adam\(learning_rate=.*\): learning_rate must be a scalar, not of shape \(2,\)"):
        jax.jit(lambda rate: jadam.adam(rate).init({"w": jnp.ones(2)}))(jnp.ones(2))


class Odd:
    """What can neither be compared, nor hashed, nor shown."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other):
        raise ValueError("not comparable")

    def __repr__(self):
        raise ValueError("not to be shown")


ODD = [
    *(Odd(), object(), "zzz", "", b"x", 1j, [], [1], (), {"a": 1}, range(3), slice(3), {1}, Ellipsis, float, len, jadam.clip),
    *(math.nan, math.inf, -1, True, np.True_, 10**400, 2**40, 1e39, 1e-50, np.float16(0.1), Fraction(1, 3), Decimal("0.1")),
    *(np.ones(3), np.asarray("a"), np.datetime64("2020"), np.str_("a"), jax.ShapeDtypeStruct((), "float32"), jax.random.key(0)),
]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_nothing_but_words_of_jadam(name):
    """Whatever an argument is, what is built is a transformation, or the error is jadam's and begins with the name."""
    build = BUILDERS[name]
    for argument, parameter in inspect.signature(build).parameters.items():
        if argument in ("mask", "matrices", "blocks", "param_labels"):
            continue  # trees, of which the parameters decide
        for value in ODD:
            required = dict(zip(inspect.signature(build).parameters, positional(build), strict=False))
            several = parameter.kind is parameter.VAR_POSITIONAL
            message = built(lambda: build(value) if several else build(**required | {argument: value}))  # noqa: B023
            assert re.match(rf"{name}\b", message)


def built(call):
    """The message of a wrong call, or what is built."""
    try:
        return call().name
    except Misuse as error:
        return str(error)


def test_numbers_of_any_kind_are_floats():
    """2**40 was an overflow of int32 in the first step, and a fraction no number of JAX's."""
    params = {"w": jnp.ones((2, 3))}
    for number in (2**40, Fraction(1, 2), np.float16(0.5), np.int64(3), Decimal("0.5")):
        traced(jadam.clip(number), params)
        if not isinstance(number, Decimal):
            traced(jadam.clip_by_global_norm(1.0, eps=number), params)
    np.testing.assert_array_equal(
        traced(jadam.adaptive_grad_clip(0.1, axis=-1), params)[0]["w"],
        traced(jadam.adaptive_grad_clip(0.1, axis=np.int64(1)), params)[0]["w"],
    )
