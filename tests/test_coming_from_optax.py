"""No name means something else than in optax, and docs/coming-from-optax.md has every difference: the tests here read it."""

import inspect
import math
import re
import warnings
from functools import partial
from types import FunctionType, ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax_calls
import pytest
from optax_calls import Call
from support import ROOT

import jadam
from jadam._elsewhere import BESIDE, IN_A_CHAIN, INSTEAD
from jadam._neutral import NEUTRAL, elsewhere

pytestmark = [
    pytest.mark.usefixtures("lenient"),
    pytest.mark.filterwarnings("ignore:.*(optax|deprecated|key will be required).*"),
]
PAGE = (ROOT / "docs" / "coming-from-optax.md").read_text()
NAMES = [name for name in dir(optax) if not name.startswith("_")]
OTHERWISE = {"monitor"}  # of another kind: the page says so, and a call of optax's is refused
SHARED = [name for name in NAMES if name in jadam.__all__ and isinstance(getattr(optax, name), FunctionType | partial)]
SHARED = [name for name in SHARED if name not in OTHERWISE]
NO_DEFAULT = inspect.Parameter.empty


def table(heading):
    """The rows of the first table below a heading, each a list of cells."""
    lines = PAGE.split(f"\n{heading}\n")[1].split("\n|---")[1].splitlines()[1:]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[: next(n for n, line in enumerate(lines) if not line)]]
    return [[cell.strip() for cell in row] for row in rows]


def quoted(cell):
    return re.findall(r"`(\w+)`", cell)


def parameters(function):
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in inspect.signature(function).parameters.items() if p.kind not in several}


def dropped():
    for function in SHARED:
        ours = parameters(getattr(jadam, function))
        yield from ((function, name) for name in parameters(getattr(optax, function)) if name not in ours)


KEEPING = (
    *(
        build(1.0)
        for build in (jadam.adam, jadam.adan, jadam.amsgrad, jadam.adadelta, jadam.adabelief, jadam.lion, jadam.adagrad)
    ),
    *(
        jadam.rmsprop(1.0, centered=True),
        jadam.ema(0.9),
        jadam.trace(0.9),
        jadam.scale_by_factored_rms(min_dim_size_to_factor=2),
    ),
    jadam.partition([(True, jadam.adam(1.0), "body")]),
    jadam.lookahead(jadam.sgd(1.0), 2, 0.5),
    jadam.accumulate(jadam.sgd(1.0), 2),
)

# Names


def test_every_public_name_is_answered():
    modules = [name for name in NAMES if isinstance(getattr(optax, name), ModuleType)]
    if optax.__version__ == "0.2.8":
        assert (len(NAMES) - len(modules), len(modules)) == (212, 12)
    for name in NAMES:
        if name in jadam.__all__:
            continue
        with pytest.raises(AttributeError, match=rf"^there is no jadam\.{name}; .*\w.*\.$") as error:
            getattr(jadam, name)
        assert re.search(r"jadam|optax|state|count|lambda", str(error.value).partition(";")[2])


def test_an_answer_is_for_a_name_that_is_not_there():
    answered = [*INSTEAD, *IN_A_CHAIN, *BESIDE]
    assert len(answered) == len(set(answered))
    assert not set(answered) & set(jadam.__all__)
    assert set(answered) <= set(NAMES) or optax.__version__ != "0.2.8"


def test_what_an_answer_names_is_there():
    for name, words in INSTEAD.items():
        for found in re.findall(r"\bjadam\.(\w+)", words):
            assert found in jadam.__all__, name
        for found in re.findall(r"\boptax\.(\w+)", words):
            assert hasattr(optax, found), name
        for key, slot in re.findall(r"state\.slots\['([\w.]+)'\]\['(\w+)'\]", words):
            assert any(slot in tx.init(jnp.ones((4, 4))).slots.get(key, {}) for tx in KEEPING), (name, key, slot)


def test_other_names_are_no_names():
    with pytest.raises(AttributeError, match="module 'jadam' has no attribute 'nonsense'"):
        jadam.nonsense  # noqa: B018
    assert not hasattr(jadam, "__wrapped__")


ARGUMENTS = {  # of those that need some
    **dict.fromkeys(["fromage", "novograd", "rprop", "sm3", "signum", "optimistic_adam", "optimistic_adam_v2"], (0.1,)),
    **{"optimistic_gradient_descent": (0.1,), "noisy_sgd": (0.1,), "add_noise": (0.1, 0.5, 0), "flatten": (jadam.adam(0.1),)},
    **{"scale_by_rprop": (0.1,), "scale_by_optimistic_gradient": (), "polyak_sgd": (), "scale_by_polyak": ()},
    "per_example_global_norm_clip": None,
    "per_example_layer_norm_clip": None,  # of gradients with an axis more than the parameters
    **{"lbfgs": (0.1, 10, True, None), "scale_by_zoom_linesearch": (15,), "scale_by_backtracking_linesearch": (15,)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(IN_A_CHAIN))
def test_it_works_in_a_chain(name):
    """What is said of optax's transformations: the same numbers as in `optax.chain`."""
    if (args := ARGUMENTS.get(name, ())) is None:
        return
    params = {"w": jnp.asarray([1.0, -2.0, 3.0])}

    def value(p):
        return jnp.sum(p["w"] ** 2)

    extra = {"value": value(params), "grad": jax.grad(value)(params), "value_fn": value}
    moved = []
    for lib in (jadam, optax):
        tx = lib.chain(lib.scale(1.0), getattr(optax, name)(*args))
        state, here = tx.init(params), params
        for _ in range(3):
            updates, state = tx.update(jax.grad(value)(here), state, here, **extra)
            here = optax.apply_updates(here, updates)
        moved.append(np.asarray(here["w"]))
    np.testing.assert_allclose(*moved, rtol=1e-5)
    assert not np.allclose(moved[0], params["w"])


# Arguments


def test_every_argument_that_is_not_there_is_on_the_page():
    rows = [(quoted(argument)[0], quoted(of), taken, words) for argument, of, taken, words in table("## Arguments")]
    listed = [(function, argument) for argument, of, _, _ in rows for function in of]
    assert sorted(listed) == sorted(dropped())
    for argument, of, taken, words in rows:
        for function in of:
            known = elsewhere(function, argument)
            assert known is not None, (function, argument)
            assert known.instead.replace("`", "") == words.replace("`", ""), (function, argument)
            default = parameters(getattr(optax, function))[argument].default
            assert str(default) in (taken.strip('"'), "None", "<class 'jax.numpy.float32'>") or not known.holds(default)


def test_neutral_values_are_taken():
    """The call runs as if the argument were not there, however many of them there are."""
    tried = 0
    for argument, entries in NEUTRAL.items():
        for function in (name for one in entries for name in one.of.split() if hasattr(jadam, name)):
            known = elsewhere(function, argument)
            assert known is not None
            assert argument not in parameters(getattr(jadam, function)), (function, argument)
            required = [name for name, p in parameters(getattr(jadam, function)).items() if p.default is NO_DEFAULT]
            given = {name: optax_calls._value(function, name, jadam) for name in required}
            given |= {"param_labels": optax_calls.LABELS} if function == "partition" else {}
            values = [value for value in (None, False, True, 0, 1, 0.8, 5.0, "hard", jnp.float32) if known.holds(value)]
            for value in values:
                assert getattr(jadam, function)(**given, **{argument: value}) == getattr(jadam, function)(**given)
                tried += 1
            with pytest.raises(TypeError, match=re.escape(f"there is no {argument}; {known.instead}")):
                getattr(jadam, function)(**given, **{argument: "else"})
    assert tried > 70


def test_a_call_of_what_has_the_name_of_another_thing_is_refused():
    """`monitor` is around a transformation. In optax it is a part of a chain, which keeps the measures that it is given."""
    assert "| `monitor(measures)` is a part of a chain" in PAGE
    for call in (lambda: jadam.monitor({"norm": jnp.sum}), lambda: jadam.monitor(measures={"norm": jnp.sum})):
        with pytest.raises(TypeError, match=r"monitor: .*(not a transformation|no measures)"):
            call()


def test_arguments_by_position():
    """None has another meaning than in optax; those that may be given so are the first ones of optax's."""
    by_name_alone = set()
    for function in SHARED:
        positional = [
            [name for name, p in parameters(getattr(lib, function)).items() if p.kind is p.POSITIONAL_OR_KEYWORD]
            for lib in (jadam, optax)
        ]
        ours, theirs = positional
        alike = [one == other for one, other in zip(ours, theirs, strict=False)]
        assert all(alike), (function, positional)
        by_name_alone |= {function} if set(theirs[len(ours) :]) & set(parameters(getattr(jadam, function))) else set()
    assert "| all arguments may be given by position |" in PAGE
    first = {"sgd": ["learning_rate", "momentum"], "adam": ["learning_rate", "b1", "b2", "eps"]}
    for function, names in first.items():
        assert f"`{function}(lr, {', '.join(names[1:])})`" in PAGE
        ours = parameters(getattr(jadam, function))
        assert [name for name in ours if ours[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == names
    optimizers = {name for name in SHARED if "learning_rate" in parameters(getattr(optax, name))}
    assert by_name_alone <= {*optimizers, "scale_by_rms", "scale_by_yogi", "scale_by_factored_rms"}


def test_every_default_that_differs_is_on_the_page():
    found = set()
    for function in SHARED:
        ours, theirs = (parameters(getattr(lib, function)) for lib in (jadam, optax))
        for name in set(ours) & set(theirs):
            if isinstance(theirs[name].default, FunctionType) and ours[name].default is None:
                continue  # the formula of the docstring, `decay_rate_fn`; the numbers are compared below
            if theirs[name].default is not NO_DEFAULT and theirs[name].default != ours[name].default:
                found.add((function, name, theirs[name].default, ours[name].default))
    words = {"None": None, "must be given": NO_DEFAULT, "as `eps`": None}
    listed = {
        (function, quoted(argument)[0], *(words[cell] if cell in words else float(cell) for cell in (theirs, ours)))
        for functions, argument, theirs, ours in table("## Defaults")
        for function in quoted(functions)
    }
    assert found == listed


# Numbers


def with_numbers():
    """Functions with other numbers than optax's for the same arguments, by the table of the page."""
    return {name for row in table("## Other numbers") for name in quoted(row[0])}


@pytest.mark.parametrize("name", SHARED)
def test_the_same_arguments_give_the_same_numbers(name):
    """Called with optax's defaults, for all arguments that both have."""
    ours, theirs = parameters(getattr(jadam, name)), inspect.signature(getattr(optax, name)).parameters
    several = ["*" for p in theirs.values() if p.kind is p.VAR_POSITIONAL]
    kwargs = {
        key: "?" if p.default is NO_DEFAULT or key in ("learning_rate", "boundaries_and_scales") else p.default
        for key, p in theirs.items()
        if key in ours
    }
    found = optax_calls.verdict(Call(name, several, kwargs, 1, 1), jadam)
    assert found.outcome in ("equal", "other numbers"), found.words
    assert found.outcome == "equal" or name in with_numbers(), found.distance


def test_the_comparison_sees_a_difference():
    """A negative control: another decay is another number."""
    call = Call("adam", [0.01], {"b1": 0.9}, 1, 1)
    other = type("Other", (), {"adam": staticmethod(lambda *args, b1: jadam.adam(*args, b1=b1 + 1e-4))})
    assert optax_calls.verdict(call, other).outcome == "other numbers"
    assert optax_calls.verdict(call, jadam).outcome == "equal"


@pytest.fixture(scope="module")
def verdicts():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optax, of names that it will drop
        return optax_calls.verdicts(jadam)


@pytest.mark.slow
def test_calls_of_public_repositories(verdicts):
    """97 % of the uses of names that jadam has run with optax's numbers."""
    named = optax_calls.uses(verdicts) - optax_calls.uses(verdicts, "missing", "not in optax")
    assert named > 1750
    assert optax_calls.uses(verdicts, "equal") >= 0.97 * named


@pytest.mark.slow
def test_no_call_runs_with_other_numbers_that_the_page_does_not_list(verdicts):
    defaults = {name for row in table("## Defaults") for name in quoted(row[0])}
    for call, found in verdicts:
        if found.outcome == "other numbers":
            assert call.name in with_numbers() | defaults, call


@pytest.mark.slow
def test_what_is_refused_is_refused_in_words(verdicts):
    for call, found in verdicts:
        if found.outcome == "refused":
            assert re.match(rf"Bad(Type|Value): {call.name}\b", found.words), (call, found.words)


def test_infinite_distances_are_not_lost():
    assert math.isinf(optax_calls._apart({"a": np.ones(2)}, {"a": np.ones(3)}))
