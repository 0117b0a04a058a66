"""Newton-Schulz: a matrix made nearly orthogonal by products alone, and the polynomials that were published for it."""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jadam._authoring import Option, cast, scaled_norm

Rows = tuple[tuple[float, float, float], ...]
EpsForm = Literal["add", "max"]


class Polynomials(NamedTuple):
    """A set of polynomials `a x + b x^3 + c x^5`, one a step.

    Attributes:
        rows: `(a, b, c)` of each; further steps repeat the last.
        steps: how many its authors take.
        safety: what they multiply the norm by at the start, so that rounding leaves no singular value above 1.
    """

    rows: Rows
    steps: int = 5
    safety: float = 1.0


QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at zero that stays near one (Jordan et al. 2024)
SETS = {
    "quintic": Polynomials((QUINTIC,)),
    # Amsel et al. 2025, arXiv:2505.16932: the authors' optimal_composition(1e-3, 10, safety_factor_eps=1e-2, cushion=0.02),
    # each the best for what the one before left of [1e-3, 1]. tests/optimizers/test_newton_schulz.py computes it anew.
    "polar_express": Polynomials(
        (
            (8.237312490495555, -23.157747414558184, 16.6805684114459),
            (4.082441999064838, -2.893047735332589, 0.5252849256975651),
            (3.9263479922546516, -2.8547468034765267, 0.5318022422894985),
            (3.298218713308515, -2.4245419810267075, 0.486320083588441),
            (2.2970369434552587, -1.6366255812590336, 0.40026284559536374),
            (1.8763805351440364, -1.2347896577722168, 0.358918875016681),
            (1.8564423485556578, -1.2132449880815264, 0.3568003487766989),
            (1.8564369116068333, -1.2132401710101488, 0.35680085140322415),
            (1.8564311671391553, -1.2132289084868382, 0.3567953311166447),
            (1.8749954775667044, -1.2499909551552246, 0.37499547758852014),
        ),
        safety=1.01,
    ),
    # Eight steps that are fast, and two of Newton-Schulz with slope 0 at 1, which come near to it (DeepSeek V4).
    "deepseek_v4": Polynomials((QUINTIC,) * 8 + ((2.0, -1.5, 0.5),) * 2, steps=10),
    # Grishina et al. 2025, arXiv:2506.10935: as Polar Express, without cushion and safety.
    "cans": Polynomials(
        (
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        )
    ),
}


def _is_set(value: Any) -> bool:
    """Whether it names a set, or is one written out."""
    if isinstance(value, str):
        return value in SETS
    rows = isinstance(value, tuple) and value and all(isinstance(row, tuple) and len(row) == 3 for row in value)
    return bool(rows) and all(isinstance(x, int | float) and math.isfinite(x) for row in value for x in row)


Coefficients = Annotated[
    Any, Option(f"{', '.join(map(repr, SETS))}, or a tuple of triples of numbers, one (a, b, c) a step", _is_set)
]
"""The name of a set of polynomials, or their coefficients."""


def polynomials(coefficients: str | Rows, steps: int | None = None) -> Polynomials:
    """A set with exactly `steps` rows, by default as many as its authors take."""
    known = SETS[coefficients] if isinstance(coefficients, str) else Polynomials(coefficients, len(coefficients))
    number = known.steps if steps is None else steps
    rows = known.rows[:number] + known.rows[-1:] * (number - len(known.rows))
    return known._replace(rows=rows, steps=number)


def orthogonalize(
    x: Array,
    coefficients: str | Rows = "quintic",
    steps: int | None = None,
    *,
    eps: Any = 1e-7,
    eps_form: EpsForm = "add",
    safety: float | None = None,
    dtype: str | None = None,
) -> Array:
    """The nearest matrix with orthonormal rows or columns, roughly: for "quintic" its singular values are mostly in 0.7 to 1.2.

    `x = a x + (b A + c A A) x` with `A = x x^T` for each row of the coefficients, on all leading axes at once, every result
    rounded to `dtype`.
    """
    chosen = polynomials(coefficients, steps)
    factor = chosen.safety if safety is None else safety
    r, tall = partial(rounded, dtype=dtype), x.shape[-2] > x.shape[-1]
    x = r(x.mT if tall else x)  # wide, so that x x^T is the smaller of the two Gram matrices
    # The Frobenius norm bounds all singular values; the iteration diverges from those far above 1.
    size, least = r(scaled_norm(x, (x.ndim - 2, x.ndim - 1))), jnp.asarray(eps, x.dtype)
    size = size if factor == 1 else r(factor * size)
    x = r(x / r(size + least if eps_form == "add" else jnp.maximum(size, least)))

    def product(left: Array, right: Array) -> Array:
        factors = (cast(one, dtype or x.dtype) for one in (left, right))
        precision = "default" if dtype in ("bfloat16", "float16") else None
        return r(jnp.matmul(*factors, precision=precision, preferred_element_type=x.dtype))

    def step(x: Array, row: Any) -> tuple[Array, None]:
        a, b, c = row
        gram = product(x, x.mT)
        return r(r(a * x) + product(r(r(b * gram) + product(r(c * gram), gram)), x)), None

    # XLA for TPU takes seconds to compile each product of float32: a loop has three, and not fifteen. XLA for GPU compiles them
    # at once, and would copy what a loop carries.
    x = lax.platform_dependent(
        x,
        tpu=lambda x: lax.scan(step, x, jnp.asarray(chosen.rows, x.dtype))[0],
        default=lambda x: reduce(lambda x, row: step(x, row)[0], chosen.rows, x),
    )
    return x.mT if tall else x


def rounded(x: Array, dtype: str | None) -> Array:
    """`x` at the precision of `dtype`, as torch's operations return it; XLA may drop a cast there and back."""
    if dtype is None:
        return x
    limits = jnp.finfo(dtype)
    return lax.reduce_precision(cast(x, jnp.float32), limits.nexp, limits.nmant)
