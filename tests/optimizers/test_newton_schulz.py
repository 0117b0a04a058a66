"""The polynomials of Newton-Schulz: computed anew, and what they make of singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jadam._optimizers.newton_schulz import SETS, orthogonalize, polynomials


def best(low, high):
    """The odd polynomial of degree 5 nearest to 1 on an interval (Remez): its error alternates at four points."""
    inner, error, last = np.asarray([(3 * low + high) / 4, (low + 3 * high) / 4]), np.inf, 0.0
    while abs(error - last) > 1e-15:
        x, last = np.asarray([low, *inner, high]), error
        a, b, c, error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], axis=1), np.ones(4))
        inner = np.sqrt((-3 * b + np.asarray([-1, 1]) * np.sqrt(9 * b * b - 20 * a * c)) / (10 * c))
    return np.asarray([a, b, c])


def composed(low, steps, safety=1.0, cushion=0.0):
    """Amsel et al. 2025, Algorithm 1: each polynomial the best for the interval that the one before leaves."""
    high, rows, powers = 1.0, [], np.asarray([1, 3, 5])
    for step in range(steps):
        narrow = low / high > 1 - 5e-6  # where Remez has no digits left
        row = np.asarray([15, -10, 3]) / 8 / high**powers if narrow else best(max(low, cushion * high), high)
        if cushion * high > low:  # centred about 1 again, which the cushion shifted
            row = row * 2 / (np.sum(row * low**powers) + np.sum(row * high**powers))
        if step < steps - 1:
            row = row / safety**powers
        rows.append(row)
        low = np.sum(row * low**powers)
        high = 2 - low
    return np.stack(rows)


def test_polar_express_is_what_its_algorithm_computes():
    rows = SETS["polar_express"].rows
    np.testing.assert_allclose(composed(1e-3, 10, 1.01, 0.02), rows, rtol=1e-5)  # the last are ill-conditioned: 2e-6 by LAPACK
    np.testing.assert_allclose(composed(1e-3, 10, 1.01, 0.02)[:7], rows[:7], rtol=1e-8)
    np.testing.assert_allclose(composed(1e-3, 5, 1.01, 0.02)[:4], rows[:4], rtol=1e-13)
    assert np.max(np.abs(composed(1e-3, 10, 1.01, 0.021)[:5] - rows[:5])) > 1e-2


def test_cans_is_what_its_algorithm_computes():
    """As published, to four decimals."""
    np.testing.assert_allclose(composed(1e-3, 5), SETS["cans"].rows, rtol=0, atol=5.1e-5)
    assert np.max(np.abs(composed(1.1e-3, 5) - SETS["cans"].rows)) > 1e-3


ENDS = {"quintic": (0.47, 1.21), "polar_express": (0.85, 1.14), "cans": (0.88, 1.12), "deepseek_v4": (0.999, 1.001)}
"""Of docs/optimizers/matrices.md: what becomes of singular values of 0.001 to 1."""


@pytest.mark.parametrize("name", sorted(SETS))
@pytest.mark.usefixtures("x64")
def test_where_singular_values_end(name):
    values = np.geomspace(1e-3, 1, 400)
    matrix = jnp.asarray(np.diag(values)) * 7
    scaled = values / np.linalg.norm(values)
    found = np.diag(orthogonalize(matrix, name))
    inside = scaled >= 1e-3
    low, high = ENDS[name]
    assert np.sum(inside) > 100
    assert np.all((found[inside] >= low) & (found[inside] <= high))
    assert found[inside].min() < low + 0.05 or name == "deepseek_v4"


def test_steps_beyond_the_table_repeat_its_last_row():
    table = ((3.0, -3.2, 1.2), (2.0, -1.5, 0.5))
    assert polynomials(table).rows == table
    assert polynomials(table, 1).rows == table[:1]
    assert polynomials(table, 4).rows == (*table, table[1], table[1])
    assert polynomials("deepseek_v4").rows == polynomials("quintic", 8).rows + (table[1],) * 2


def test_three_products_are_compiled_for_a_tpu():
    """Each step had its own, which took XLA for TPU 41 seconds for five steps. A loop costs a GPU a copy in each."""
    traced = jax.jit(lambda x: orthogonalize(x, "deepseek_v4", 10)).trace(jnp.ones((4, 8)))
    products = {on: traced.lower(lowering_platforms=(on,)).as_text().count("dot_general") for on in ("tpu", "cuda")}
    assert products == {"tpu": 3, "cuda": 30}
