"""A leaf as some rows of a table that is there as a whole, and written where it is: in a kernel, or by XLA around its rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from jadam._engine.leaf import Operands, Program, Result
from jadam._engine.owners import gathered, scattered


def in_tables(program: Program, operands: Operands, run_rules: Callable[[Program, Operands], tuple[Result, Any]]) -> Result:
    """The rules on rows of tables, which are read and written where they are, in a kernel if that can compute them."""

    def in_xla(operands: Operands) -> Result:
        tables, ids = (operands.p, operands.slots, operands.residue), operands.ids
        assert ids is not None
        p, slots, residue = jax.tree.map(lambda table: gathered(table, ids), tables)
        own = operands._replace(p=p, slots=slots, residue=residue, summands=None)
        (new, *kept), _ = run_rules(program._replace(kernel=False), own)
        place = functools.partial(jax.tree.map, lambda table, rows: scattered(table, ids, rows))
        slots, residue = place(tables[1], kept[0]), tables[2] if program.mode == "between" else place(tables[2], kept[1])
        return place(tables[0], new) if program.mode == "step" else new, slots, residue

    from jadam._engine.kernel_on_rows import fits, run_in_kernel  # here, since Pallas takes long to import

    in_kernel = program.kernel and fits(program, operands)
    return run_in_kernel(program, operands, in_xla) if in_kernel else in_xla(operands)
