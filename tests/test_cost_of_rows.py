"""What a step on some rows of a table costs on an H100 and a TPU v5e, told by XLA's compilers (see `compilers.py`)."""

import re

import compilers
import jax
import jax.numpy as jnp
import pytest
from compilers import compiled, cost_of

import jadam
from jadam import Rows

pytestmark = pytest.mark.usefixtures("optimized")
elsewhere = pytest.mark.skipif(
    bool(compilers.MISSING), reason="the compilers are not installed: pip install -e '.[accelerators]'"
)
LENGTH, TOUCHED = 1_000_000, 4096


def program(target, width, distinct, by="step", tx=jadam.adam(1e-3)):  # noqa: B008 (it never changes)
    """A step of Adam on some rows, which are distinct or to be summed first; parameters and state are donated."""
    table = jax.ShapeDtypeStruct((LENGTH, width), jnp.float32)

    def step(params, state, ids, values):
        rows = Rows(ids, values, distinct=distinct)
        if by == "step":
            return tx.step(rows, state, params)
        updates, state = tx.update(rows, state, params)
        return jadam.apply_updates(params, updates), state

    ids, values = jax.ShapeDtypeStruct((TOUCHED,), jnp.int32), jax.ShapeDtypeStruct((TOUCHED, width), jnp.float32)
    return compiled(target, step, table, jax.eval_shape(tx.init, table), ids, values, donate=(0, 1))


@elsewhere
@pytest.mark.parametrize(("distinct", "limit"), [(True, 1.9), (False, 3.0)])
@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize("width", [64, 128])
def test_an_h100_keeps_a_table_where_it_is(width, by, distinct, limit):
    """It moves touched rows alone. XLA has a kernel that computes and one for each scatter, with rows between them in memory:
    it could write in place in one kernel only if it knew that no row is read after it was written.

    The goal was 1.3 of what must move: each touched row of three tables in and out, and the gradient in. At these sizes what
    stands between kernels is 3 to 6 MB, and stays in a cache of 50. A Triton kernel of Adam alone, written by hand, that reads
    rows by their ids and writes them over the old ones compiles to one kernel without temporary memory: rules
    would have to run where rows are gathered, before wrappers and norms have seen them.
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
@pytest.mark.parametrize("distinct", [True, False])
def test_a_tpu_moves_little_more_than_it_must(distinct):
    """Of rows of 128 numbers. Shorter ones it stores as columns, and would copy the table to reach a row."""
    found = program("v5e", 128, distinct)
    assert cost_of(found, rows=(LENGTH, TOUCHED)).moved <= 1.3 * 4 * TOUCHED * (7 * 128 + 1)
    copies = re.compile(rf"f32\[{LENGTH},\d+\]\S* copy\(")
    assert not copies.findall(found.as_text())
    assert found.memory_analysis().temp_size_in_bytes <= 8e6
    assert len(copies.findall(program("v5e", 64, distinct).as_text())) == 6
