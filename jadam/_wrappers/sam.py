"""Sharpness-aware minimization: gradients from the worst point nearby."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from jadam._chain import TransformationLike, builder, wrap
from jadam._errors import BadType
from jadam._hyper import FixedNonNegative, NonNegative
from jadam._norm import global_norm
from jadam._squares import bounded
from jadam._transformation import GradientTransformation
from jadam._wrapper import Inside, Outcome, Wrapper


@dataclass(frozen=True)
class Sam(Wrapper):
    """Runs the inside on the gradient at the worst point nearby."""

    rho: NonNegative = 0.05
    adaptive: bool = False
    eta: FixedNonNegative = 0.01

    def around(self, inside: Inside) -> tuple[Outcome, dict[str, list[Array]], dict[str, Array]]:
        h, params = inside.h, inside.params
        sizes = [jnp.abs(p) + self.eta if self.adaptive else jnp.ones((), p.dtype) for p in params]
        scaled = [t * bounded(g) for t, g in zip(sizes, inside.updates, strict=True)]
        norm = global_norm(scaled)
        # A reciprocal that is a number, also of a norm of zero: then nothing is moved.
        unit = 1 / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
        worst = [
            p + h.rho.astype(p.dtype) * t * (g * unit.astype(p.dtype)) for p, t, g in zip(params, sizes, scaled, strict=True)
        ]
        grad_fn = inside.extra["grad_fn"]
        if not callable(grad_fn):
            raise BadType("grad_fn must be a function of the parameters that returns gradients.")
        return inside.run(inside.leaves(grad_fn(inside.tree(worst)), "grad_fn")), {}, {}


@builder
def sam(
    tx: TransformationLike, *, rho: NonNegative = 0.05, adaptive: bool = False, eta: FixedNonNegative = 0.01
) -> GradientTransformation:
    """Steps by the gradient at the worst point nearby, so that minima are flat (SAM): `tx` sees it instead of its own.

    `worst = params + rho g / |g|`; adaptive: `worst = params + rho t^2 g / |t g|`, with `t = |params| + eta`.
    Pass the function that computes gradients, as `tx.update(grads, state, params, grad_fn=grad_fn)`, and to `tx.step`
    alike: `grad_fn(params)` is called once a step, best with the same batch. Its gradients are those of the loss without a
    `loss_scale`.

    Args:
        tx: a transformation. A clip inside it acts on the gradient at the worst point.
        rho: how far away it is, >= 0, or a schedule; 0.05, and 0.5 to 2 if it is adaptive.
        adaptive: whether distance is measured in units of each weight, so that it does not depend on their scale (ASAM).
        eta: what is added to the unit of a weight if it is adaptive, >= 0.

    Raises:
        ValueError: an argument is out of its range; when a step is traced, it has no parameters or no `grad_fn`, or the
            gradients that this returns do not fit the parameters.

    Note:
        The worst point has the dtype of the parameters. In 16 bits, a distance that is below half a unit of a weight is lost.

    Reference:
        Foret et al. 2021, Algorithm 1, arXiv:2010.01412; Kwon et al. 2021, Algorithm 1, arXiv:2102.11600.

    Example:
        >>> import jadam, jax, jax.numpy as jnp
        >>> tx, params = jadam.sam(jadam.sgd(0.1), rho=0.5), {"w": jnp.asarray(1.0)}
        >>> grad_fn = jax.grad(lambda params: params["w"] ** 2)
        >>> params, state = tx.step(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        >>> params["w"]  # 1 - 0.1 * 2 * 1.5
        Array(0.7, dtype=float32)
    """
    return wrap(Sam(rho=rho, adaptive=adaptive, eta=eta), tx)
