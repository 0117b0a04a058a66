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

    def rows_of(operands: Operands) -> Operands:
        tables, ids = (operands.p, operands.slots, operands.residue), operands.ids
        assert ids is not None
        p, slots, residue = jax.tree.map(lambda table: gathered(table, ids), tables)
        return operands._replace(p=p, slots=slots, residue=residue, summands=None)

    def in_xla(operands: Operands) -> Result:
        (new, *kept), _ = run_rules(program._replace(kernel=False), rows_of(operands))
        ids = operands.ids
        assert ids is not None
        place = functools.partial(jax.tree.map, lambda table, rows: scattered(table, ids, rows))
        residue = operands.residue if program.mode == "between" else place(operands.residue, kept[1])
        return place(operands.p, new) if program.mode == "step" else new, place(operands.slots, kept[0]), residue

    if program.kernel:
        from jadam._engine.kernel import of_what_is_read  # here, since Pallas takes long to import
        from jadam._engine.kernel_on_rows import fits, run_in_kernel

        read = operands._replace(hs=of_what_is_read(program, rows_of(operands)).hs)
        if fits(program, read):
            return run_in_kernel(program, read, in_xla)
    return in_xla(operands)
