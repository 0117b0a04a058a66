"""What a step on some rows of a table costs on an H100 and a TPU v5e, told by XLA's compilers (see `compilers.py`)."""

import math
import re

import compilers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilers import compiled, cost_of
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jadam
from jadam import Rows

pytestmark = pytest.mark.usefixtures("optimized")
elsewhere = pytest.mark.skipif(
    bool(compilers.MISSING), reason="the compilers are not installed: pip install -e '.[accelerators]'"
)
LENGTH, TOUCHED = 1_000_000, 4096


def program(target, width, distinct, by="step", tx=jadam.adam(1e-3)):  # noqa: B008 (it never changes)
    """A step of Adam on some rows, which are distinct or to be summed first; parameters and state are donated."""
    step, *args = traced((width,), distinct, by, tx)
    return compiled(target, step, *args, donate=(0, 1))


def traced(row, distinct, by="step", tx=jadam.adam(1e-3), dtype=jnp.float32):  # noqa: B008 (it never changes)
    """The function of such a step, and the types of its arguments."""
    table = jax.ShapeDtypeStruct((LENGTH, *row), dtype)

    def step(params, state, ids, values):
        rows = Rows(ids, values, distinct=distinct)
        if by == "step":
            return tx.step(rows, state, params)
        updates, state = tx.update(rows, state, params)
        return jadam.apply_updates(params, updates), state

    ids, values = jax.ShapeDtypeStruct((TOUCHED,), jnp.int32), jax.ShapeDtypeStruct((TOUCHED, *row), dtype)
    return step, table, jax.eval_shape(tx.init, table), ids, values


@elsewhere
@pytest.mark.parametrize(("distinct", "limit"), [(True, 1.9), (False, 2.6)])
@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize("width", [64, 128])
def test_an_h100_keeps_a_table_where_it_is(width, by, distinct, limit):
    """It moves touched rows alone. XLA has a kernel that computes and one for each scatter, with rows between them in memory:
    it could write in place in one kernel only if it knew that no row is read after it was written.

    What must move is each touched row of three tables, in and out, and the gradient, in. At these sizes what stands between
    kernels is 3 to 6 MB, and stays in a cache of 50. The Pallas kernel below writes nothing between.
    """
    found = program("h100", width, distinct, by)
    ideal = 4 * TOUCHED * (7 * width + 1)
    scatters = re.findall(rf"= f32\[{LENGTH},{width}\]\S* fusion\(", found.as_text())
    assert len(scatters) == 3
    overwritten = 4 * TOUCHED * width * len(scatters)  # operands of the scatters, which do not read what they write over
    assert cost_of(found, rows=(LENGTH, TOUCHED)).moved - overwritten <= (limit + 0.4 * (by == "update")) * ideal
    assert not re.findall(rf"f32\[{LENGTH},{width}\]\S* copy\(", found.as_text())
    assert found.memory_analysis().temp_size_in_bytes <= 8e6 * width / 64
    assert found.memory_analysis().alias_size_in_bytes >= 3 * 4 * LENGTH * width


def in_kernel(tx, **kwargs):
    return jadam.with_precision(tx, kernel="pallas", **kwargs)


def must_move(row, dtype, tx):
    """Bytes of a touched row: of parameter and slots in and out, of the gradient in, and an id."""
    table = jax.ShapeDtypeStruct((1, *row), dtype)
    slots = jax.tree.leaves(jax.eval_shape(tx.init, table).slots)
    size = lambda x: math.prod(x.shape) * x.dtype.itemsize  # noqa: E731
    return 2 * (size(table) + sum(map(size, slots))) + size(table) + 4


@elsewhere
@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize(
    ("row", "dtype", "formats"),
    [
        ((64,), "float32", {}),
        ((100,), "float32", {"state": "bfloat16", "min_size": 1}),
        ((128,), "bfloat16", {"state": "bfloat16", "params": "remainder", "min_size": 1}),
        ((64, 30), "bfloat16", {"state": "int8", "params": "stochastic", "min_size": 1}),
    ],
)
def test_a_kernel_on_an_h100_moves_what_it_must(row, dtype, formats, distinct):
    """One kernel, which writes rows over the old ones, also where ids are to be sorted and summed: sums stay in registers.

    Of a table that it gets, a kernel moves the rows whose ids it gets: `test_what_a_kernel_reads_and_writes`.
    """
    tx = in_kernel(jadam.adam(1e-3), **formats)
    step, *args = traced(row, distinct, tx=tx, dtype=dtype)
    found = compiled("h100", step, *args, donate=(0, 1))
    assert found.as_text().count("triton") == 1
    assert cost_of(found, rows=(LENGTH, TOUCHED)).moved <= 1.12 * TOUCHED * must_move(row, dtype, tx)
    assert not re.findall(rf"\[{LENGTH},[\d,]*\]\S* copy\(", found.as_text())
    assert found.memory_analysis().temp_size_in_bytes <= 0.2e6
    tables = [math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(args[:2])]
    assert found.memory_analysis().alias_size_in_bytes >= sum(tables)


@elsewhere
@pytest.mark.parametrize(("distinct", "limit", "in_xla"), [(True, 1.45, 2.3), (False, 1.85, 2.66)])
def test_a_clip_before_a_kernel(distinct, limit, in_xla):
    """Its norm is of summed rows: XLA sums them for that, and writes the sums to memory."""
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adam(1e-3))
    by_xla, by_kernel = (
        cost_of(program("h100", 64, distinct, tx=one), rows=(LENGTH, TOUCHED)).moved / (4 * TOUCHED * (7 * 64 + 1))
        for one in (tx, in_kernel(tx))
    )
    assert by_kernel <= limit
    assert abs(by_xla - 3 * 64 / (7 * 64 + 1) - in_xla) <= 0.02  # but for operands of the scatters


@elsewhere
@pytest.mark.parametrize("spec", [("x", None), (None, "y"), ("x", "y"), (("x", "y"), None)], ids=str)
def test_a_kernel_on_eight_devices_sends_nothing(spec):
    """Each device has some rows or columns of a table, all gradients, and a kernel."""
    mesh = Mesh(np.array(compilers.devices("8 h100")).reshape(2, 4), ("x", "y"))
    step, *args = traced((64,), False, tx=in_kernel(jadam.adam(1e-3)))
    placed, shared = NamedSharding(mesh, PartitionSpec(*spec)), NamedSharding(mesh, PartitionSpec())
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed if x.shape[:1] == (LENGTH,) else shared), args
    )
    found = jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile()
    assert found.as_text().count("triton") == 1
    assert not compilers.sent(found)
    assert found.memory_analysis().temp_size_in_bytes <= 0.4e6


@pytest.mark.parametrize("distinct", [True, False])
def test_what_a_kernel_reads_and_writes(distinct):
    """The bytes that its own loads and stores name, all programs of its grid together: of each table the rows touched, once in
    and once out. Values of one id are read in a loop, of which a pass that is not full is masked: each value is read once.
    """
    step, *args = traced((64,), distinct, tx=in_kernel(jadam.adam(1e-3)))
    [kernel] = [one for one in equations(jax.make_jaxpr(step)(*args).jaxpr, "pallas_call") if not one.params["interpret"]]
    programs = math.prod(kernel.params["grid_mapping"].grid)
    body = kernel.params["jaxpr"]
    moved = {"masked_load": 0, "masked_swap": 0}
    for one in body.eqns:  # but for those in the loop
        if one.primitive.name in moved and one.invars[0].aval.shape[0] == LENGTH:
            moved[one.primitive.name] += programs * one.outvars[0].aval.size * one.outvars[0].aval.dtype.itemsize
    assert moved == {"masked_load": 3 * 4 * 64 * TOUCHED, "masked_swap": 3 * 4 * 64 * TOUCHED}
    of_values = [one for one in equations(body, "masked_load") if one.invars[0].aval.shape == (TOUCHED, 1, 64)]
    assert len(of_values) == 1
    assert distinct == (of_values[0] in body.eqns)


def equations(jaxpr, name):
    """All of one kind, also in what others call."""
    found = []
    for one in jaxpr.eqns:
        found += [one] * (one.primitive.name == name)
        for inner in jax.tree.leaves([*one.params.values()], is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            found += equations(inner, name) if hasattr(inner, "eqns") else []
    return found


@elsewhere
@pytest.mark.parametrize("how", ["loop", "cond"])
def test_a_window_copies_no_table_on_an_h100(how):
    """Rows are gathered in a loop, or in a branch, and scattered after it."""
    tx = jadam.guard(jadam.accumulate(jadam.adam(1e-3), 4, rows=4 * TOUCHED, how=how))
    found = program("h100", 64, True, tx=tx)
    assert not re.findall(rf"f32\[{LENGTH},64\]\S* copy\(", found.as_text())
    assert found.memory_analysis().temp_size_in_bytes <= 40e6
    assert found.memory_analysis().alias_size_in_bytes >= 3 * 4 * LENGTH * 64


@elsewhere
@pytest.mark.parametrize(("distinct", "kernel"), [(True, "xla"), (False, "xla"), (False, "pallas")])
def test_a_tpu_moves_little_more_than_it_must(distinct, kernel):
    """Of rows of 128 numbers. Shorter ones it stores as columns, and would copy the table to reach a row. There is no kernel
    on rows for it: `kernel="pallas"` is XLA's there.
    """
    found = program("v5e", 128, distinct, tx=jadam.with_precision(jadam.adam(1e-3), kernel=kernel))
    assert "tpu_custom_call" not in found.as_text()
    assert cost_of(found, rows=(LENGTH, TOUCHED)).moved <= 1.3 * 4 * TOUCHED * (7 * 128 + 1)
    copies = re.compile(rf"f32\[{LENGTH},\d+\]\S* copy\(")
    assert not copies.findall(found.as_text())
    assert found.memory_analysis().temp_size_in_bytes <= 8e6
    assert len(copies.findall(program("v5e", 64, distinct).as_text())) == 6
