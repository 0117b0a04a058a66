"""What devices send each other in a step, and what each keeps, told by XLA's compilers (see `compilers.py`)."""

import math
import re

import compilers
import jax
import pytest
from compilers import sent
from support import ELEMENTWISE_RULES, EVERYDAY, OPTIMIZERS, ROOT, load_script

import jadam

pytestmark = pytest.mark.usefixtures("optimized")
elsewhere = pytest.mark.skipif(
    bool(compilers.MISSING), reason="the compilers are not installed: pip install -e '.[accelerators]'"
)
pods = load_script("tests/bench/pods.py")
SHAPES = {"w": (4096, 1024), "b": (4096,)}
COUNT = sum(math.prod(shape) for shape in SHAPES.values())
CLIPPED = {name: jadam.chain(jadam.clip_by_global_norm(1.0), OPTIMIZERS[name](1e-3)) for name in ELEMENTWISE_RULES}
EACH = [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.slow) for name in ELEMENTWISE_RULES]


def check_places(program, state):
    """That parameters and slots come back where they were."""
    of_params = program.input_shardings[0][2]
    after, of_state = program.output_shardings
    for place, x in zip(jax.tree.leaves(of_state.slots), jax.tree.leaves(state.slots), strict=True):
        assert place.is_equivalent_to(x.sharding, x.ndim)
    for name, shape in SHAPES.items():
        assert after[name].is_equivalent_to(of_params[name], len(shape))


@elsewhere
@pytest.mark.parametrize("target", ["8 h100", "256 v5p"])
@pytest.mark.parametrize("name", EACH)
def test_elementwise_optimizers_send_a_norm(name, target):
    """Fully sharded and clipped: at most a kilobyte, on 8 H100 as on 256 v5p."""
    program, state = pods.step_on(target, CLIPPED[name], "fully sharded", SHAPES)
    assert 4 <= sum(size for _, size in sent(program).values()) <= 1024
    check_places(program, state)


@elsewhere
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", EACH)
def test_the_parts_of_parameters_are_gathered_once(name, dtype):
    """ZeRO-1: an eighth of the state on each of eight, and parameters are sent as they are stored."""
    program, state = pods.step_on("8 h100", CLIPPED[name], "ZeRO-1", SHAPES, dtype)
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.slots))
    assert pods.bytes_a_device(state) <= 1.05 / 8 * whole
    found = sent(program)
    expected = COUNT * (4 if dtype == "float32" else 2) if whole else 0  # SGD keeps nothing, and nothing is spread
    assert found.pop("all-gather", (0, 0))[1] == expected
    assert sum(size for _, size in found.values()) <= 1024
    check_places(program, state)


@elsewhere
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {*ELEMENTWISE_RULES} | {"adamw", "prodigy", "sgd"}))
def test_the_table_of_the_page(name):
    rows = re.findall(r"^\| `\w+` .*\|$", (ROOT / "docs" / "pods.md").read_text(), re.M)
    [row] = [row for row in rows if row.startswith(f"| `{name}` |")]
    assert row == f"| {' | '.join(pods.row(name))} |"


@elsewhere
@pytest.mark.parametrize(
    ("count", "way", "expected"),
    [
        (1, "whole", {}),
        pytest.param(1, "fully sharded", {"all-gather": (1, 1)}, marks=pytest.mark.slow),
        pytest.param(2, "whole", {"all-gather": (1, 2)}, marks=pytest.mark.slow),
        pytest.param(2, "fully sharded", {"all-to-all": (2, 1 + 1 / 4)}, marks=pytest.mark.slow),
        pytest.param(9, "fully sharded", {"all-gather": (1, 1), "all-to-all": (2, 2)}, marks=pytest.mark.slow),
    ],
)
def test_what_fills_a_stack_is_not_sent(count, way, expected):
    """How often, and how many matrices a device gets: of one or two that all have, all were sent eight."""
    program, _ = pods.step_on("8 h100", jadam.muon(0.02), way, {f"w{n}": (256, 512) for n in range(count)})
    assert {kind: (times, size / (256 * 512 * 4)) for kind, (times, size) in sent(program).items()} == expected


LAYER = {"qkv/w": (768, 2304), "o/w": (768, 768), "fc/w": (768, 3072), "pr/w": (3072, 768), "qkv/b": (2304,), "ln/g": (768,)}
TRANSFORMER = {f"h{i}/{name}": shape for i in range(12) for name, shape in LAYER.items()} | {"wte": (50304, 768)}
MATRICES = sum(math.prod(shape) for name, shape in TRANSFORMER.items() if name.startswith("h") and name.endswith("w"))


@elsewhere
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_muon_exchanges_matrices_twice(dtype):
    """A transformer of 12 layers: queries, keys, values and outputs in one stack, and both kinds of the others in another.

    Products of matrices in parts would send each matrix 15 times to each of 8 devices: 60 times as much.
    """
    program, _ = pods.step_on("8 h100", jadam.muon(0.02, ns_dtype=dtype), "fully sharded", TRANSFORMER)
    assert sent(program) == {"all-to-all": (4, 2 * MATRICES * (2 if dtype else 4) // 8)}


@elsewhere
@pytest.mark.slow
def test_muon_beside_that_of_optax():
    """Of the transformer of the bench, in whose table on docs/pods.md this is a row."""
    _, theirs, _, ours, _ = pods.muon_row("8 h100")
    assert f"| 8 h100 | {theirs} |" in (page := (ROOT / "docs" / "pods.md").read_text())
    assert f"| {ours} |" in page
    assert float(ours.split()[0]) <= 0.03 * float(theirs.split()[0].replace(",", ""))


@elsewhere
@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "expected"),
    [
        # The gradient and six slots go there; the update and the slots come back.
        ("fully sharded", {"all-to-all": (14, 2 * 24_117_248)}),
        # Gradients are whole, and so are the updates.
        ("ZeRO-1", {"all-to-all": (12, 2 * (24_117_248 - 2**21)), "all-gather": (1, 2**24)}),
        ("whole", {"all-gather": (5, 8 * 24_117_248)}),
    ],
)
def test_soap_exchanges_what_it_keeps(way, expected):
    """16 matrices: 134,774,848 B were sent, and each device kept the larger Gram matrices and bases whole."""
    program, state = pods.step_on("8 h100", jadam.soap(1e-3), way, {f"w{i}": (256, 1024) for i in range(16)})
    assert sent(program) == expected
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.slots))
    assert pods.bytes_a_device(state) == (whole if way == "whole" else whole / 8)
