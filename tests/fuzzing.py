"""Trees, transformations and laws for `tests/test_fuzz.py` and `tests/bench/fuzz.py`.

An example is text, Python as a user would write it, so that whoever reads a failure can repeat it. Optimizers and blocks are
found, and their options drawn by their annotations: what is added to the library is drawn without a line here.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax
from support import NAMESPACE, EverySecond, compilations, is_finite, stack

import jadam
from jadam import GradientTransformation
from jadam._dtypes import encode
from jadam._engine import leaf as engine_leaf
from jadam._engine import reader as engine_reader
from jadam._errors import Misuse
from jadam._hyper import Option, Range
from jadam._masks import MaskLike
from jadam._storage.params import PARAM_STORAGE, Nearest
from jadam._storage.slots import SLOT_STORAGE

Text = st.SearchStrategy[str]


class Example(NamedTuple):
    """A tree of parameters, a transformation of it, and which of the laws that compile is checked beside the others."""

    tree: str
    tx: str
    law: str

    def build(self) -> tuple[Any, Any]:
        """The parameters and the transformation. What is equal to another because of its numbers alone is built anew."""
        params = eval(self.tree, NAMES)
        return params, eval(self.tx, NAMES | {"params": params})


# What the text of an example may name


class Point(NamedTuple):
    x: Any
    y: Any


def leaf(shape: tuple[int, ...], dtype: str) -> jax.Array:
    """Numbers of very different sizes, and one zero; of integers the same, rounded."""
    if dtype == "key":
        return jax.random.split(jax.random.key(0), shape)
    rng = np.random.default_rng(len(shape))
    x = rng.standard_normal(shape) * np.exp(rng.standard_normal(shape))
    x = x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x
    x = np.where(np.arange(x.size).reshape(shape) == 1, 0, x)
    return jnp.asarray(np.abs(x) if dtype == "uint8" else x).astype(dtype)


def vectors(params: Any) -> Any:
    """A mask as a function, and, called in the text, as a tree of bools."""
    return jax.tree.map(lambda p: p.ndim < 2, params)


def by_rank(params: Any) -> Any:
    """Labels, likewise."""
    return jax.tree.map(lambda p: "matrix" if p.ndim > 1 else "vector", params)


def falling(count: Any) -> Any:
    """A schedule that is a function."""
    return 0.1 / (1 + jnp.asarray(count, jnp.float32))


NAMES = {
    "jadam": jadam,
    "jnp": jnp,
    "leaf": leaf,
    "Point": Point,
    "vectors": vectors,
    "by_rank": by_rank,
    "falling": falling,
    "EverySecond": EverySecond,
}

# Trees

SHAPES = [(), (1,), (3,), (5,), (33,), (2, 3), (4, 37), (3, 1), (0,), (2, 0), (2, 1, 3), (2, 3, 2, 5), (2, 65)]
DTYPES = ["float32", "float32", "float32", "bfloat16", "bfloat16", "float16", "complex64", "int32", "uint8", "bool", "key"]
arrays = st.builds("leaf({}, {!r})".format, st.sampled_from(SHAPES), st.sampled_from(DTYPES))
leaves = st.one_of(arrays, arrays, arrays, st.just("None"))


def _nodes(inner: Text) -> Text:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.sampled_from(["{}", "[]", "()"]),
        several.map(lambda x: "{" + ", ".join(f"{key!r}: {value}" for key, value in zip("abc", x, strict=False)) + "}"),
        several.map(lambda x: f"[{', '.join(x)}]"),
        st.tuples(inner, inner).map(lambda x: f"({x[0]}, {x[1]})"),
        st.builds("Point({}, {})".format, inner, inner),
    )


# With something to train, nearly always: what is refused for want of it is soon seen.
trees = st.one_of([st.recursive(leaves, _nodes, max_leaves=4).filter(lambda text: "float" in text)] * 9 + [_nodes(leaves)])

# Options by their annotations

NUMBERS = [0.5, 0.9, 1e-3, 0.1, 0.99999, 1.0, 0.0, -0.8, 2, 3, -1.0]
SCHEDULES = ["jadam.linear_schedule(0.1, 0.01, 3)", "jadam.warmup_constant_schedule(0.0, 0.1, 2)", "falling"]
AROUND = {"tx", "inner", "fast_optimizer"}
"""What arguments are called that are transformations."""
WRONG = ["None", "'a'", "float('nan')", "float('inf')", "1e39", "(1, 2)", "jnp.ones(2)"]
"""What most options refuse, in words."""


def _numbers(name: str, note: Range | Option) -> Text:
    # By an eps of zero a gradient of zero is 0 / 0, as in the papers. A factor above 1 makes inf of large gradients.
    held = [x for x in NUMBERS if _holds(note, x) and not (x == 0 and "eps" in name) and not (x > 1 and name == "step_size")]
    return st.sampled_from([repr(x) for x in held] or ["lambda count, rate: rate"])  # for what has to be a function


def _holds(note: Range | Option, x: float) -> bool:
    try:
        return bool(note.holds(x))
    except TypeError:
        return False


def _right(name: str, hint: Any) -> Text:
    """Texts of allowed values; an annotation that is not known here is an error."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if name in AROUND:
        return transformations
    if hint == MaskLike:
        return masks
    if origin is Annotated:
        note = arguments[1]
        if isinstance(note, Range) and _holds(note, 0.1):  # else the schedules leave it
            return _numbers(name, note) | st.sampled_from(SCHEDULES[:1] if "eps" in name else SCHEDULES)  # others begin at zero
        return _numbers(name, note) if isinstance(note, Range | Option) else _right(name, arguments[0])
    if origin is Literal:
        return st.sampled_from(list(map(repr, arguments)))
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_right(name, part) for part in arguments])
    if origin in (Iterable, Sequence):
        return st.builds("[{}]".format, _right(name, arguments[0]))
    if origin is tuple and Ellipsis not in arguments:
        return st.builds("({})".format, st.tuples(*(_right(name, part) for part in arguments)).map(", ".join))
    known = {
        bool: ["True", "False"],
        int: ["0", "1", "2", "3"],
        float: ["0.5", "1.0", "1e-3"],
        type(None): ["None"],
        tuple[int, ...]: ["(0,)", "(0, 1)"],
        Any: ["None", "1", "2"],  # what is given leaf by leaf
        Callable[[jax.Array], Any]: SCHEDULES,
        Callable[[jax.Array], jax.Array]: ["jnp.abs"],
        Callable[[Any], Any]: ["lambda tree: tree"],
    }
    return st.sampled_from(known[hint])


def right(name: str) -> dict[str, Text]:
    """Of each argument of a function of jadam, texts of allowed values."""
    function = getattr(jadam, name)
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    return {argument: _right(argument, hints[argument]) for argument in inspect.signature(function).parameters}


@st.composite
def _call(draw: st.DrawFn, name: str) -> str:
    """A call of a function of jadam, with those arguments that it needs, and some that it does not."""
    values, arguments = right(name), []
    for parameter in inspect.signature(getattr(jadam, name)).parameters.values():
        needed = parameter.default is parameter.empty
        if needed or draw(st.integers(0, 4)) == 0:
            wrong = draw(st.integers(0, 60)) == 60
            value = draw(st.sampled_from(WRONG) if wrong else values[parameter.name])
            arguments.append(value if needed else f"{parameter.name}={value}")
    return f"jadam.{name}({', '.join(arguments)})"


# Transformations


def _found() -> list[str]:
    """Every public function of jadam that returns a transformation."""
    functions = {name: value for name, value in NAMESPACE.items() if inspect.isfunction(value)}
    returned = {name: inspect.signature(value).return_annotation for name, value in functions.items()}
    return [name for name, kind in returned.items() if kind in (GradientTransformation, "GradientTransformation")]


FOUND = _found()


def _is_around(name: str) -> bool:
    """Whether its first argument is a transformation."""
    return not AROUND.isdisjoint(inspect.signature(getattr(jadam, name)).parameters)


masks = st.recursive(
    st.sampled_from(
        [
            "True",
            "vectors",
            "vectors(params)",
            "jadam.ndim_at_least(1)",
            "jadam.ndim_at_least(2)",
            "jadam.match('**')",
            "jadam.match('*a*', '**/b')",
        ]
    ),
    lambda inner: st.one_of(
        inner.filter(lambda x: x.startswith(("jadam", "~", "("))).map(lambda x: f"~{x}"),
        st.builds("({} | {})".format, st.just("jadam.ndim_at_least(2)"), inner),
        st.builds("({} & {})".format, st.just("jadam.match('**')"), inner),
    ),
    max_leaves=3,
)


def _chains(inner: Text) -> Text:
    return st.lists(inner, max_size=3).map(lambda x: f"jadam.chain({', '.join(x)})")


def _partitions(inner: Text) -> Text:
    pairs = st.lists(st.builds("({}, {})".format, masks, inner), max_size=2)
    rest = st.builds("(True, {})".format, inner).map(lambda x: [x]) | st.just([])
    labels = st.sampled_from(["by_rank", "by_rank(params)"])
    return st.one_of(
        st.builds(lambda some, last: f"jadam.partition([{', '.join(some + last)}])", pairs, rest),
        st.builds("jadam.partition({{'matrix': {}, 'vector': {}}}, {})".format, inner, inner, labels),
    )


def _storages(inner: Text) -> Text:
    by_slot = st.sampled_from(["{'mu': 'bfloat16', 'nu': 'int8'}", "{'mu': 'int8'}", "{'z': 'bfloat16'}"])
    state = st.sampled_from([None, *map(repr, SLOT_STORAGE)]) | by_slot
    params = st.sampled_from([None, *map(repr, PARAM_STORAGE)])
    more = st.sampled_from(["min_size=0", "min_size=0", "rounding='nearest', min_size=0", "seed=1"])

    def call(tx: str, state: str | None, params: str | None, more: str) -> str:
        said = [f"{name}={value}" for name, value in (("state", state), ("params", params)) if value]
        return f"jadam.with_precision({', '.join([tx, *said, more])})"

    return st.builds(call, inner, state, params, more)


def _wraps(inner: Text) -> Text:
    return st.builds("jadam.wrap(EverySecond({!r}), {})".format, st.sampled_from(["cond", "loop", "select"]), inner)


SPECIAL: dict[str, Callable[[Text], Text]] = {
    "chain": _chains,
    "partition": _partitions,
    "with_precision": _storages,
    "wrap": _wraps,
}
"""Those whose arguments no annotation tells."""

inside: Text = st.deferred(lambda: transformations)
around: dict[str, Text] = {
    name: SPECIAL[name](inside) if name in SPECIAL else _call(name) for name in FOUND if name in SPECIAL or _is_around(name)
}
plain = st.sampled_from([name for name in FOUND if name not in around]).flatmap(_call)
# Half of all are plain, so that what is drawn stays small.
transformations: Text = plain | st.sampled_from(sorted(around)).flatmap(around.__getitem__)

# Laws


ASKED = {"reduce_on_plateau(": {"value": 1.0}, "sam(": {"grad_fn": lambda params: params}}
"""What an update is given beside the gradient, by what stands in the text."""


def fed(tx: Any, text: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The update and the step of a transformation, with the arguments that it asks for."""
    given = {name: value for words, more in ASKED.items() if words in text for name, value in more.items()}
    return functools.partial(tx.update, **given), functools.partial(tx.step, **given)


class Drawn(NamedTuple):
    """An example that was built, and what its laws are about."""

    example: Example
    params: Any
    grads: list[Any]
    tx: Any
    again: Any
    state: Any

    @property
    def update(self) -> Callable[..., Any]:
        return fed(self.tx, self.example.tx)[0]

    @property
    def step(self) -> Callable[..., Any]:
        return fed(self.tx, self.example.tx)[1]


LAWS: dict[str, Callable[[Drawn], None]] = {}
"""Those that compile, by name."""


def law(check: Callable[[Drawn], None]) -> Callable[[Drawn], None]:
    LAWS[check.__name__] = check
    return check


examples = st.builds(Example, trees, transformations, st.deferred(lambda: st.sampled_from(["", *LAWS])))


def check(example: Example) -> str:
    """Whether the laws hold: "" if they do, and the words if the example is refused. Otherwise an AssertionError."""
    try:
        params, tx = example.build()
        assert isinstance(repr(tx), str)
        state = jax.eval_shape(tx.init, params)
        fixed_point(fed(tx, example.tx), params, state)
        started = tx.init(params)  # asks schedules for their first numbers, which may be out of range
    except Misuse as refusal:
        return str(refusal)
    again = example.build()[1]
    assert tx == again
    assert hash(tx) == hash(again)
    drawn = Drawn(example, params, [gradients(params, seed) for seed in range(3)], tx, again, started)
    chex.assert_trees_all_equal_shapes_and_dtypes(drawn.state, state)
    reads(drawn)
    if example.law:
        LAWS[example.law](drawn)
    return ""


KINDS = "ordinary", "zeros", "least", "huge", "mixed", "zeros"
"""Of gradients, as one follows the other."""


def gradients(params: Any, seed: int = 0, kind: str = "ordinary") -> Any:
    """Gradients of one kind; of what is not trained, the leaf itself."""
    rng = np.random.default_rng(seed)

    def gradient(p: Any) -> Any:
        if not jnp.issubdtype(p.dtype, jnp.inexact):
            return p
        limits = jnp.finfo(p.dtype)
        sizes = {"zeros": 0.0, "least": float(limits.tiny), "huge": float(limits.max) / 4}
        x = rng.standard_normal(p.shape)
        if kind == "mixed":
            x = rng.choice(list(sizes.values()), p.shape) * np.sign(x)
        elif kind != "ordinary":
            x = sizes[kind] * np.sign(x)
        return jnp.asarray(x, p.dtype)

    return jax.tree.map(gradient, params)


def fixed_point(functions: Iterable[Callable[..., Any]], params: Any, state: Any) -> None:
    """Of `update` and `step`: structure, shapes, dtypes and weak types stay."""
    for function in functions:
        new = jax.eval_shape(function, params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, (jax.eval_shape(lambda x: x, params), state))
        assert not any(x.weak_type for x in jax.tree.leaves(new) if hasattr(x, "weak_type"))


def reads(drawn: Drawn) -> None:
    """What is asked of a transformation and its state does not fail, and what is set keeps the structure."""
    params, tx, state = drawn.params, drawn.tx, drawn.state
    assert jadam.describe(tx, params)
    assert isinstance(jadam.check_precision(tx, params), list)
    if jax.tree.leaves(params):
        shardings = jadam.state_shardings(tx, params)
        assert jax.tree.structure(shardings) == jax.tree.structure(state)
        jax.device_put(state, shardings)
    for name, value in jadam.hyperparams(state).items():
        with contextlib.suppress(Misuse):  # a schedule drives it
            chex.assert_trees_all_equal_shapes_and_dtypes(tx.set_hyperparams(state, **{name: float(value)}), state)
    for again in (jadam.from_dict(tx, params, jadam.to_dict(state)), jadam.migrate(state, tx, params)[0]):
        chex.assert_trees_all_equal_shapes_and_dtypes(again, state)
        chex.assert_trees_all_equal(again, state)


@law
def finite(drawn: Drawn) -> None:
    """No finite gradient makes NaN or inf, whatever came before, unless float16 has no number for the step.

    A number that a state begins with may stay: the best loss, before there is one, is inf.
    """
    params, state = drawn.params, drawn.state
    update, found, start = jax.jit(drawn.update), [], numbers(state._replace(given={}))
    for kind in KINDS:
        updates, state = update(gradients(params, kind=kind), state, params)
        after = zip(start, numbers(state._replace(given={})), strict=True)
        found.append(is_finite([*numbers(updates), *(jnp.where(new == old, 0, new) for old, new in after)]))
    assert all(found) or too_long_for_float16(drawn.example), found


def too_long_for_float16(example: Example) -> bool:
    """Whether its steps leave the range of float16, as the same transformation of float32 parameters shows."""
    wide = example._replace(tree=example.tree.replace("'float16'", "'float32'"))
    if wide == example:
        return False
    params, tx = wide.build()
    update, state, longest = jax.jit(fed(tx, example.tx)[0]), tx.init(params), 0.0
    for kind in KINDS:
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients(example.build()[0], kind=kind), params)
        updates, state = update(grads, state, params)
        longest = max([longest, *(float(np.abs(u).max(initial=0)) for u in numbers(updates))])
    return np.isfinite(longest) and longest > float(jnp.finfo(jnp.float16).max)


@law
def step_is_update_and_apply(drawn: Drawn) -> None:
    params, state = drawn.params, drawn.state
    for g in drawn.grads:
        updates, state = drawn.update(g, state, params)
        params = jadam.apply_updates(params, updates)
    assert_close(stepped(drawn.step, drawn), params, drawn)


@law
def jit_is_eager(drawn: Drawn) -> None:
    step = jax.jit(lambda g, state, params: drawn.step(g, state, params))
    assert_close(stepped(step, drawn), stepped(drawn.step, drawn), drawn)


@law
def scan_is_a_loop(drawn: Drawn) -> None:
    def body(carry: Any, g: Any) -> Any:
        return drawn.step(g, carry[1], carry[0]), None

    (params, _), _ = lax.scan(body, (drawn.params, drawn.state), stack(drawn.grads), len(drawn.grads))
    assert_close(params, stepped(drawn.step, drawn), drawn)


@law
def vmap_is_a_loop(drawn: Drawn) -> None:
    """Of two models with other gradients."""
    models = [drawn, drawn._replace(grads=drawn.grads[::-1])]
    step = jax.jit(jax.vmap(drawn.step))
    params, state = stack([drawn.params] * 2), stack([drawn.state] * 2)
    for pair in zip(*(model.grads for model in models), strict=True):
        params, state = step(stack(pair), state, params)
    for n, model in enumerate(models):
        alone = stepped(drawn.step, model)
        assert_close(jax.tree.map(lambda x, n=n: x[n], params), alone, model)


@law
def rebuilt_compiles_nothing(drawn: Drawn) -> None:
    stepped(drawn.step, drawn)
    again = drawn._replace(tx=drawn.again)
    assert compilations(lambda: stepped(again.step, again)) == 0


def stepped(step: Callable[..., Any], drawn: Drawn) -> Any:
    """The parameters after a step for each gradient."""
    params, state = drawn.params, drawn.state
    for g in drawn.grads:
        params, state = step(g, state, params)
    return params


def numbers(tree: Any) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]


def assert_close(found: Any, expected: Any, drawn: Drawn) -> None:
    """Two paths to the same parameters, leaf by leaf: as far apart as roundings in another order bring them.

    In float32 1e-3 of how far the leaf has moved: sums of squares and matrix products differ by some 1e-6, which roots and
    inverses make larger. A stored slot of few bits may be rounded to the other neighbour, 3 % away in 8 bits. Beside that a
    few ulp of the parameter, in whose dtype each of the steps is rounded.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    few_bits = any(x.dtype.itemsize < 4 for x in numbers(drawn.state.slots)) or "int8" in repr(drawn.tx)
    for x, y, start in zip(*map(numbers, (found, expected, drawn.params)), strict=True):
        ulp, half = float(jnp.finfo(y.dtype).eps), y.dtype == jnp.float16
        x, y, start = (np.asarray(z, np.complex128) for z in (x, y, start))
        held = np.isfinite(y) if half else np.full(y.shape, True)  # a step may leave the range of float16
        assert (np.isfinite(x) == held).all()
        x, y, start = x[held], y[held], start[held]
        if y.size == 0:
            continue
        allowed = (0.05 if few_bits else 1e-3) * np.abs(y - start).max() + 4 * ulp * np.abs(y).max()
        assert np.abs(x - y).max() <= allowed, f"apart {np.abs(x - y).max()}, allowed {allowed}"
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        if not jnp.issubdtype(y.dtype, jnp.inexact):
            assert bool((x == y).all())


# Planted faults, which the laws must find


@contextlib.contextmanager
def _planted(*edits: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes with other values; no program from before or after is used."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in edits:
            patch.setattr(owner, name, value)
        jax.clear_caches()
        yield
    jax.clear_caches()


def _too_long(self: Any, u: Any, p: Any, *_: Any) -> Any:
    return p + encode(np.float32(1.3) * u, p.dtype), {}


def _wide_vectors(self: Any, u: Any, p: Any, *_: Any) -> Any:
    return u if p.ndim == 1 and p.dtype == jnp.bfloat16 else encode(u, p.dtype), {}


FAULTS: dict[str, Callable[[], Any]] = {
    "gradients are not bounded": lambda: _planted(
        *((owner, "bounded", lambda g, *_: g) for owner in (engine_leaf, engine_reader))
    ),
    "steps are 1.3 times too long": lambda: _planted((Nearest, "step", _too_long)),
    "updates of vectors are float32": lambda: _planted((Nearest, "land", _wide_vectors)),
}
