"""The oracles of what looks at a whole array: its norm, its rows and columns, its blocks, its singular vectors."""

import numpy as np
from numpy.linalg import eigh, norm, qr

from oracles.elementwise import adamw, moments

CASES = {
    "lamb": [{}, {"weight_decay": 0.0}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}],
    "stable_adamw": [{}, {"b1": 0.8, "b2": 0.95, "eps": 0.5, "weight_decay": 0.3}],
    "mars_adamw": [{}, {"b1": 0.9, "b2": 0.95, "eps": 1e-3, "gamma": 0.1, "weight_decay": 0.3}],
    "adafactor": [
        {},
        {"eps1": 0.1, "weight_decay": 0.3},
        {"beta2_decay": -0.5, "eps1": 0.9, "eps2": 2.0, "d": 1.1, "weight_decay": 0.3},
    ],
    "big_vision_adafactor": [
        {},
        {"min_dim_size_to_factor": 1},
        {"decay_rate": 0.6, "beta2_cap": 0.8, "momentum": 0.7, "eps": 1e-2, "weight_decay": 0.3}
        | {"min_dim_size_to_factor": 3, "clipping_threshold": 0.5},
    ],
    "adam_mini": [{}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}],
    "prodigy": [  # against gradients of pure noise d grows only where d_coef is large
        {},
        {"weight_decay": 0.3, "use_bias_correction": True, "d0": 1e-2, "d_coef": 500.0},
        {"b1": 0.8, "b2": 0.95, "b3": 0.9, "eps": 1e-3, "safeguard_warmup": True, "d0": 1e-2, "d_coef": 3e4},
        {"d0": 1e-2, "d_coef": 300.0, "growth_rate": 1.05},
    ],
    "muon": [
        {},
        {"momentum": 0.9, "scale": "moonlight", "momentum_form": "sum", "ns_eps": 1e-2, "weight_decay": 0.3},
        {"nesterov": False, "ns_steps": 3, "weight_decay": 0.3},
        {"adam_b1": 0.8, "adam_b2": 0.9, "adam_eps": 1e-3, "adam_ratio": 0.5, "weight_decay": 0.3},
        {"ns_coeffs": ((3.0, -3.2, 1.2), (2.0, -1.5, 0.5)), "ns_steps": 3, "ns_safety": 1.1, "scale": "unit_rms"}
        | {"momentum_form": "bias_corrected", "scale_factor": 0.7, "adam_learning_rate": 3e-3, "adam_weight_decay": 0.2},
        {"momentum_form": "bias_corrected", "nesterov": False, "ns_eps": 0.5, "ns_eps_form": "max"}
        | {"adam_ratio": 1.0, "adam_weight_decay": 0.4},
    ],
    "normuon": [
        {},
        {"momentum": 0.9, "b2": 0.8, "eps": 1e-2, "weight_decay": 0.3, "adam_ratio": 0.5},
        {"norm_eps_form": "max", "eps": 2.0, "scale": "moonlight", "ns_steps": 3, "adam_learning_rate": 3e-3},
    ],
    "soap": [
        {},
        {"b1": 0.9, "b2": 0.8, "eps": 1e-3, "weight_decay": 0.3, "precondition_frequency": 3},
        {"precondition_frequency": 1, "max_precondition_size": 3},
    ],
}


# Norms of an array


def rms(x):
    return np.sqrt(np.mean(x * x))


def lamb(p, grads, lr, b1=0.9, b2=0.999, eps=1e-6, weight_decay=1e-2):
    """You et al. 2020, Algorithm 2, with phi the identity; a ratio with a zero norm is 1."""
    for _, _, mhat, vhat in moments(grads, b1, b2):
        u = mhat / (np.sqrt(vhat) + eps) + weight_decay * p
        yield (p := p - lr * (norm(p) / norm(u) if norm(p) * norm(u) else 1.0) * u)


def stable_adamw(p, grads, lr, b1=0.9, b2=0.99, eps=1e-6, weight_decay=1e-2):
    """StableAdamW of optimi: the rate, of the decay too, is divided by the RMS of g / sqrt(vhat) where that is above 1."""
    for _, g, mhat, vhat in moments(grads, b1, b2):
        rate = lr / max(1.0, rms(g / np.maximum(np.sqrt(vhat), eps)))
        yield (p := p * (1 - rate * weight_decay) - rate * mhat / (np.sqrt(vhat) + eps))


def mars_adamw(p, grads, lr, b1=0.95, b2=0.99, eps=1e-8, gamma=0.025, weight_decay=0.0):
    """The authors' approximate MARS: AdamW on corrected gradients of norm at most 1; the gradient before the first is 0."""
    before = [np.zeros_like(p), *grads[:-1]]
    c = [g + gamma * b1 / (1 - b1) * (g - last) for g, last in zip(grads, before, strict=True)]
    c = [x / max(1.0, norm(x)) for x in c]
    return adamw(p, c, lr, weight_decay, b1=b1, b2=b2, eps=eps)


# Second moments of rows, columns and blocks


def factored(v, a, b, least=0.0):
    """Adafactor's estimate of v from its mean over axis a and its mean over axis b."""
    row, column = v.mean(a, keepdims=True), v.mean(b, keepdims=True)
    return row * column / np.maximum(row.mean(b, keepdims=True), least)


def adafactor(p, grads, lr, beta2_decay=-0.8, eps1=None, eps2=1e-3, d=1.0, weight_decay=0.0):
    """torch.optim.Adafactor. The averages of rows and columns are those of the whole average, which is kept here."""
    v, eps1 = 0.0, np.finfo(np.float64).eps if eps1 is None else eps1
    for t, g in enumerate(grads, start=1):
        rate = max(eps2, rms(p)) * min(lr, 1 / np.sqrt(t))
        v = (1 - t**beta2_decay) * v + t**beta2_decay * g * g
        u = g / np.maximum(np.sqrt(factored(v, -1, -2, eps1) if p.ndim > 1 else v), eps1)
        yield (p := p * (1 - lr * weight_decay) - rate * u / max(1.0, rms(u) / d))


def big_vision_adafactor(
    p, grads, lr, decay_rate=0.8, beta2_cap=0.999, momentum=0.9, eps=1e-30, min_dim_size_to_factor=32, weight_decay=0.0, **clip
):
    """scale_by_adafactor of big_vision, where optax's factored RMS takes the two largest axes, if both are large enough."""
    m, v = 0.0, 0.0
    axes = np.argsort(p.shape)[-2:]
    large = len(axes) == 2 and min(p.shape[a] for a in axes) >= min_dim_size_to_factor
    for t, g in enumerate(grads, start=1):
        b2 = min(beta2_cap, 1 - t**-decay_rate)
        v = b2 * v + (1 - b2) * (g * g + eps)
        u = g / np.sqrt(factored(v, *axes) if large else v)
        u = u / max(1.0, rms(u) / clip.get("clipping_threshold", np.inf))
        m = momentum * m + (1 - momentum) * u
        yield (p := p - lr * (m + weight_decay * p))


def adam_mini(p, grads, lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    """Zhang et al. 2024: AdamW with one vhat a block, which is an index of the last axis of several, and a whole vector."""
    axes = tuple(range(p.ndim - 1)) or None
    for _, _, mhat, vhat in moments(grads, b1, b2):
        u = mhat / (np.sqrt(vhat.mean(axes, keepdims=True)) + eps)
        yield (p := p * (1 - lr * weight_decay) - lr * u)


# Matrices


def newton_schulz(x, rows, eps, eps_form="add", safety=1.0):
    """Polynomials that take the singular values near to 1. The authors transpose a tall x to save work only."""
    size = safety * norm(x)
    x = x / (size + eps if eps_form == "add" else max(size, eps))
    for a, b, c in rows:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def muon(p, grads, lr, scale="keller", weight_decay=0.0, direction=lambda o: o, **options):
    """Jordan et al. 2024; "moonlight" is Liu et al. 2025. What has not two axes gets AdamW, at a rate of its own or a share."""
    adam = {name.removeprefix("adam_"): value for name, value in options.items() if name.startswith("adam_")}
    if p.ndim == 2:
        matrix = {name: value for name, value in options.items() if not name.startswith("adam_")}
        return muon_of_matrix(p, grads, lr, scale, weight_decay, direction, **matrix)
    ratio = adam.pop("ratio", 1.0 if scale == "moonlight" else 0.015)
    rate, decay = adam.pop("learning_rate", ratio * lr), adam.pop("weight_decay", weight_decay)
    return adamw(p, grads, rate, decay, **{"b1": 0.9, "b2": 0.95, "eps": 1e-10} | adam)


def muon_of_matrix(
    p,
    grads,
    lr,
    scale,
    weight_decay,
    direction,
    momentum=0.95,
    nesterov=True,
    ns_coeffs=((3.4445, -4.7750, 2.0315),),
    ns_steps=5,
    momentum_form="lerp",
    scale_factor=None,
    **start,
):
    inputs, outputs = p.shape
    sizes = {"keller": max(1.0, outputs / inputs), "moonlight": max(p.shape), "unit_rms": outputs / inputs}
    factor = (scale_factor or {"moonlight": 0.2}.get(scale, 1.0)) * sizes[scale] ** 0.5
    rows = [ns_coeffs[min(n, len(ns_coeffs) - 1)] for n in range(ns_steps)]
    start = {name.removeprefix("ns_"): value for name, value in ({"ns_eps": 1e-7} | start).items()}
    buffer, new, ahead, now = 0.0, 1.0 if momentum_form == "sum" else 1 - momentum, 1.0, 1.0
    for t, g in enumerate(grads, start=1):
        buffer = momentum * buffer + new * g
        if momentum_form == "bias_corrected":
            ahead, now = 1 - momentum ** (t + nesterov), 1 - momentum**t
        u = momentum * buffer / ahead + new * g / now if nesterov else buffer / ahead
        o = direction(newton_schulz(u, rows, **start))
        yield (p := p * (1 - lr * weight_decay) - lr * factor * o)


def normuon(p, grads, lr, b2=0.95, eps=1e-10, norm_eps_form="add", **options):
    """Li et al. 2025, Algorithm 1: Muon, each output divided by the root of the average of its mean square; the norm stays."""
    v = 0.0

    def direction(o):
        nonlocal v
        v = b2 * v + (1 - b2) * np.mean(o * o, axis=0)
        u = o / (np.sqrt(v) + eps)
        return u * norm(o) / (norm(u) + eps if norm_eps_form == "add" else max(norm(u), eps))

    return muon(p, grads, lr, direction=direction, **options)


def rotate(x, bases, side):
    """Each axis of x that is in `bases`, turned into its basis (side 0) or back (side 1)."""
    for axis, q in bases.items():
        x = np.moveaxis(np.tensordot(x, q, (axis, side)), -1, axis)
    return x


def soap(p, grads, lr, b1=0.95, b2=0.95, eps=1e-8, weight_decay=1e-2, precondition_frequency=10, max_precondition_size=10000):
    """The authors' code (Vyas et al. 2024, Algorithm 3): the first step only sets the bases; the decay comes after the step."""
    axes = [a for a in range(p.ndim) if p.ndim > 1 and p.shape[a] <= max_precondition_size]
    flat = [{a: np.moveaxis(g, a, 0).reshape(g.shape[a], -1) for a in axes} for g in grads]
    gram = {a: (1 - b2) * x @ x.T for a, x in flat[0].items()}
    bases = {a: eigh(gram[a])[1][:, ::-1] for a in axes}
    m, v = 0.0, 0.0
    yield p
    for t, g in enumerate(grads[1:], start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * rotate(g, bases, 0) ** 2
        u = rotate(rotate(m, bases, 0) / (np.sqrt(v) + eps), bases, 1)
        p = p - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * u
        p = p - lr * weight_decay * p
        gram = {a: b2 * gram[a] + (1 - b2) * x @ x.T for a, x in flat[t].items()}
        for a in axes if t % precondition_frequency == 0 else []:
            order = np.argsort(-np.diag(bases[a].T @ gram[a] @ bases[a]))
            v = np.take(v, order, axis=a)
            bases[a] = qr(gram[a] @ bases[a][:, order])[0]
        yield p


def prodigy(
    p, grads, lr, b1=0.9, b2=0.999, b3=None, eps=1e-8, weight_decay=0.0, d0=1e-6, d_coef=1.0, growth_rate=np.inf, **switches
):
    """The authors' code (Mishchenko & Defazio 2023), all parameters in one array."""
    start, b3, m, v, s, numerator, d, top = p, np.sqrt(b2) if b3 is None else b3, 0.0, 0.0, 0.0, 0.0, d0, d0
    for t, g in enumerate(grads, start=1):
        rate = d * lr * (np.sqrt(1 - b2**t) / (1 - b1**t) if switches.get("use_bias_correction") else 1.0)
        numerator = b3 * numerator + d / d0 * rate * np.sum(g * (start - p))
        s = b3 * s + d / d0 * (d if switches.get("safeguard_warmup") else rate) * g
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * (d * g) ** 2
        estimate = d_coef * numerator / np.sum(abs(s))
        top = max(top, estimate)
        d = min(top, growth_rate * (max(d, estimate) if d == d0 else d))
        yield (p := p * (1 - rate * weight_decay) - rate * m / (np.sqrt(v) + d * eps))
