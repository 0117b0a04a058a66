"""Each optimizer once more, on float64 arrays of numpy, independent of JAX and of jadam: what the tests compare with.

An oracle takes one parameter (an array of any shape, never changed in place), the list of its gradients, a constant learning
rate and the arguments of the optimizer, and gives the list of parameters after each step. Masks are left to other tests.
`GLOBAL` names the optimizers that look at all parameters together: they get all leaves raveled and concatenated.
`CASES` has the arguments to try: for every optimizer its defaults, then values that make every argument count within 30 steps.
"""

import numpy as np
from numpy.linalg import eigh, norm, qr

GLOBAL = {"prodigy"}

LEARNING_RATES = {"prodigy": 1.0, "adadelta": 10.0, "adafactor": 1.0, "adagrad": 0.5, "muon": 0.5, "schedule_free_adamw": 0.5}
"""For the test that an optimizer converges on a quadratic in 400 steps, where 0.05 is not of the right size."""

CASES = {
    "sgd": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.8, "dampening": 0.3}],
    "rmsprop": [{}, {"decay": 0.9, "eps": 1e-3}, {"centered": True}, {"decay": 0.9, "centered": True, "momentum": 0.8}],
    "adagrad": [{}, {"initial_accumulator_value": 0.1, "eps": 1e-3}],
    "adadelta": [{}, {"rho": 0.95, "eps": 1e-2}],
    "adam": [{}, {"b1": 0.0, "b2": 0.95, "eps": 1e-3}, {"b2": 0.99999, "eps_root": 1e-6}, {"eps": 1e-3, "eps_form": "eps_hat"}],
    "adamw": [
        {},
        {"weight_decay": 0.3, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3},
        {"weight_decay": 1e-3, "decay": "independent"},
        {"weight_decay": 0.1, "decay": "corrected", "eps": 1e-3, "eps_form": "eps_hat"},
    ],
    "adamax": [{}, {"b1": 0.8, "b2": 0.9, "eps": 1e-2}],
    "amsgrad": [
        {},
        {"b1": 0.8, "b2": 0.7, "eps": 1e-3},
        {"b2": 0.7, "maximum": "corrected"},
        {"b2": 0.7, "eps": 1e-3, "maximum": "paper"},
    ],
    "nadam": [{}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "momentum_decay": 0.1}],
    "nadamw": [{}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}],
    "radam": [{}, {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.3}, {"b2": 0.5}],  # b2 = 0.5 is never rectified
    "adabound": [{}, {"b1": 0.8, "b2": 0.7, "eps": 1e-3, "final_learning_rate": 0.02, "gamma": 0.1, "amsbound": True}],
    "adabelief": [{}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}],
    "yogi": [{}, {"b1": 0.8, "b2": 0.9, "eps": 1e-2, "initial_accumulator_value": 0.1}],
    "lion": [{}, {"b1": 0.8, "b2": 0.95, "weight_decay": 0.3}],
    "adan": [{}, {"b1": 0.9, "b2": 0.8, "b3": 0.95, "eps": 1e-3, "weight_decay": 0.3}, {"weight_decay": 0.3, "no_prox": True}],
    "lamb": [{}, {"weight_decay": 0.0}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}],
    "adopt": [{}, {"b1": 0.8, "b2": 0.99, "eps": 0.3, "weight_decay": 0.3}, {"b2": 0.99, "use_clipping": False}],
    "ademamix": [
        {},
        {"b1": 0.8, "b2": 0.95, "b3": 0.999, "alpha": 5.0, "eps": 1e-3, "weight_decay": 0.3},
        {"alpha": 5.0, "alpha_warmup": 10, "b3_warmup": 20},
    ],
    "adam_atan2": [{}, {"b1": 0.8, "b2": 0.95, "a": 2.0, "b": 0.5, "weight_decay": 0.3}],
    "laprop": [{}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.01}],
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
        {
            "decay_rate": 0.6,
            "beta2_cap": 0.8,
            "momentum": 0.7,
            "eps": 1e-2,
            "min_dim_size_to_factor": 3,
            "clipping_threshold": 0.5,
            "weight_decay": 0.3,
        },
    ],
    "adam_mini": [{}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}],
    "schedule_free_adamw": [
        {},
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3, "warmup_steps": 10},
        {"weight_decay": 0.3, "warmup_steps": 10, "r": 1.0, "weight_lr_power": 0.5, "decay_at_z": True},
    ],
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
    ],
    "soap": [
        {},
        {"b1": 0.9, "b2": 0.8, "eps": 1e-3, "weight_decay": 0.3, "precondition_frequency": 3},
        {"precondition_frequency": 1, "max_precondition_size": 3},
    ],
}


# What several of them share


def moments(grads, b1, b2):
    """Adam's averages of the gradients and of their squares, both bias-corrected, step by step: t, g, mhat, vhat."""
    m, v = 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        yield t, g, m / (1 - b1**t), v / (1 - b2**t)


def rms(x):
    return np.sqrt(np.mean(x * x))


# SGD and its scalings


def sgd(p, grads, learning_rate, momentum=None, dampening=0.0, nesterov=False):
    """torch.optim.SGD: the first buffer is the gradient itself, without dampening."""
    buffer, path = 0.0, []
    for t, g in enumerate(grads):
        buffer = momentum * buffer + (1 - dampening) * g if momentum and t else g
        p = p - learning_rate * (g + momentum * buffer if nesterov else buffer)
        path.append(p)
    return path


def rmsprop(p, grads, learning_rate, decay=0.99, eps=1e-8, centered=False, momentum=None):
    """torch.optim.RMSprop."""
    m, v, buffer, path = 0.0, 0.0, 0.0, []
    for g in grads:
        m = decay * m + (1 - decay) * g
        v = decay * v + (1 - decay) * g * g
        buffer = (momentum or 0.0) * buffer + g / (np.sqrt(v - m * m if centered else v) + eps)
        p = p - learning_rate * buffer
        path.append(p)
    return path


def adagrad(p, grads, learning_rate, initial_accumulator_value=0.0, eps=1e-10):
    """torch.optim.Adagrad."""
    v, path = initial_accumulator_value, []
    for g in grads:
        v = v + g * g
        p = p - learning_rate * g / (np.sqrt(v) + eps)
        path.append(p)
    return path


def adadelta(p, grads, learning_rate, rho=0.9, eps=1e-6):
    """torch.optim.Adadelta."""
    v, a, path = 0.0, 0.0, []
    for g in grads:
        v = rho * v + (1 - rho) * g * g
        u = np.sqrt(a + eps) / np.sqrt(v + eps) * g
        a = rho * a + (1 - rho) * u * u
        p = p - learning_rate * u
        path.append(p)
    return path


# Adam and its second moments


def adam(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, eps_form="standard", shrink=0.0):
    """Kingma & Ba 2015, Algorithm 1; "eps_hat" is section 2's efficient form, eps beside the uncorrected root.

    Each step first multiplies the parameter by `1 - shrink`, as torch's AdamW does.
    """
    path = []
    for t, _, mhat, vhat in moments(grads, b1, b2):
        added = eps / np.sqrt(1 - b2**t) if eps_form == "eps_hat" else eps
        p = p * (1 - shrink) - learning_rate * mhat / (np.sqrt(vhat + eps_root) + added)
        path.append(p)
    return path


def adamw(p, grads, learning_rate, weight_decay=1e-2, decay="decoupled", **kwargs):
    """torch.optim.AdamW. At a constant rate optimi's "independent" is free of the rate, and AdamC's "corrected" is torch's."""
    shrink = weight_decay if decay == "independent" else learning_rate * weight_decay
    return adam(p, grads, learning_rate, shrink=shrink, **kwargs)


def adamax(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """torch.optim.Adamax: eps inside the maximum."""
    m, u, path = 0.0, 0.0, []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, abs(g) + eps)
        p = p - learning_rate / (1 - b1**t) * m / u
        path.append(p)
    return path


def amsgrad(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, maximum="uncorrected"):
    """torch.optim.Adam(amsgrad=True); "corrected" is optax's; "paper" is Reddi et al. 2018, Algorithm 2 (with eps)."""
    top, path = 0.0, []
    for t, _, mhat, vhat in moments(grads, b1, b2):
        c1, c2 = 1 - b1**t, 1 - b2**t
        top = np.maximum(top, vhat if maximum == "corrected" else vhat * c2)
        m = mhat * c1 if maximum == "paper" else mhat
        p = p - learning_rate * m / (np.sqrt(top / c2 if maximum == "uncorrected" else top) + eps)
        path.append(p)
    return path


def nadam(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, momentum_decay=4e-3):
    """torch.optim.NAdam."""
    product, path = 1.0, []
    for t, g, mhat, vhat in moments(grads, b1, b2):
        mu, after = (b1 * (1 - 0.5 * 0.96 ** (n * momentum_decay)) for n in (t, t + 1))
        product *= mu
        u = (1 - mu) * g / (1 - product) + after * mhat * (1 - b1**t) / (1 - product * after)
        p = p - learning_rate * u / (np.sqrt(vhat) + eps)
        path.append(p)
    return path


def nadamw(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2):
    """NAdamW of AlgoPerf: the momentum is averaged with the gradient once more."""
    path = []
    for t, g, mhat, vhat in moments(grads, b1, b2):
        u = b1 * mhat + (1 - b1) * g / (1 - b1**t)
        p = p * (1 - learning_rate * weight_decay) - learning_rate * u / (np.sqrt(vhat) + eps)
        path.append(p)
    return path


def radam(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=None):
    """torch.optim.RAdam with decoupled decay: rectified where rho > 5, eps on the uncorrected root."""
    path, limit = [], 2 / (1 - b2) - 1
    for t, _, mhat, vhat in moments(grads, b1, b2):
        c2 = 1 - b2**t
        rho = limit - 2 * t * b2**t / c2
        if rho > 5:
            r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            mhat = r * mhat * np.sqrt(c2) / (np.sqrt(vhat * c2) + eps)
        p = p * (1 - learning_rate * (weight_decay or 0.0)) - learning_rate * mhat
        path.append(p)
    return path


def adabound(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, final_learning_rate=0.1, gamma=1e-3, amsbound=False):
    """The authors' code: bounds on the rate of each element, bias corrections inside, eps on the uncorrected root."""
    top, path = 0.0, []
    for t, _, mhat, vhat in moments(grads, b1, b2):
        c1, c2 = 1 - b1**t, 1 - b2**t
        v = top = np.maximum(top, vhat * c2) if amsbound else vhat * c2
        lower, upper = final_learning_rate * (1 - 1 / (gamma * t + 1)), final_learning_rate * (1 + 1 / (gamma * t))
        p = p - np.clip(learning_rate * np.sqrt(c2) / c1 / (np.sqrt(v) + eps), lower, upper) * mhat * c1
        path.append(p)
    return path


def adabelief(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-16, weight_decay=None):
    """The authors' code without rectification: eps is added to the average too, at every step."""
    m, s, path = 0.0, 0.0, []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
        u = m / (1 - b1**t) / (np.sqrt(s / (1 - b2**t)) + eps)
        p = p * (1 - learning_rate * (weight_decay or 0.0)) - learning_rate * u
        path.append(p)
    return path


def yogi(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-3, initial_accumulator_value=1e-6):
    """Zaheer et al. 2018, Algorithm 2, with Adam's bias corrections; both averages begin at the same value."""
    m = v = initial_accumulator_value
    path = []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g * g) * g * g
        p = p - learning_rate * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        path.append(p)
    return path


# Other momenta


def adan(p, grads, learning_rate, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, weight_decay=0.0, no_prox=False):
    """The authors' code: betas are decays; the first difference is zero; the decay divides unless `no_prox`."""
    m, w, n, last, path = 0.0, 0.0, 0.0, grads[0], []
    for t, g in enumerate(grads, start=1):
        d, last = g - last, g
        m = b1 * m + (1 - b1) * g
        w = b2 * w + (1 - b2) * d
        n = b3 * n + (1 - b3) * (g + b2 * d) ** 2
        u = (m / (1 - b1**t) + b2 * w / (1 - b2**t)) / (np.sqrt(n / (1 - b3**t)) + eps)
        p = p * (1 - learning_rate * weight_decay) if no_prox else p
        p = (p - learning_rate * u) / (1 if no_prox else 1 + learning_rate * weight_decay)
        path.append(p)
    return path


def adopt(p, grads, learning_rate, b1=0.9, b2=0.9999, eps=1e-6, weight_decay=0.0, use_clipping=True):
    """The authors' code: the first step only sets v; afterwards g is divided by the root of the last v, before the momentum."""
    m, v, path = 0.0, grads[0] ** 2, [p]
    for t, g in enumerate(grads[1:], start=1):
        u = g / np.maximum(np.sqrt(v), eps)
        m = b1 * m + (1 - b1) * (np.clip(u, -(t**0.25), t**0.25) if use_clipping else u)
        v = b2 * v + (1 - b2) * g * g
        p = p - learning_rate * (m + weight_decay * p)
        path.append(p)
    return path


def ademamix(
    p,
    grads,
    learning_rate,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    alpha=2.0,
    eps=1e-8,
    weight_decay=0.0,
    alpha_warmup=None,
    b3_warmup=None,
):
    """The authors' code: b3 warms up linearly in the average's half-life, up to its 1e-8. The slow average is not corrected."""
    slow, path = 0.0, []
    first, last = (np.log(0.5) / np.log(b + 1e-8) - 1 for b in (b1, b3))
    for t, g, mhat, vhat in moments(grads, b1, b2):
        a, b = (min(1.0, t / warmup) if warmup else 1.0 for warmup in (alpha_warmup, b3_warmup))
        decay = 0.5 ** (1 / ((1 - b) * first + b * last + 1)) if b < 1 else b3
        slow = decay * slow + (1 - decay) * g
        p = p - learning_rate * ((mhat + a * alpha * slow) / (np.sqrt(vhat) + eps) + weight_decay * p)
        path.append(p)
    return path


def laprop(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-15, weight_decay=0.0):
    """The authors' code: momentum of normalised gradients; the decay comes after the step, free of the learning rate."""
    m, path = 0.0, []
    for t, g, _, vhat in moments(grads, b1, b2):
        m = b1 * m + (1 - b1) * learning_rate * g / (np.sqrt(vhat) + eps)
        p = (p - m / (1 - b1**t)) * (1 - weight_decay)
        path.append(p)
    return path


def mars_adamw(p, grads, learning_rate, b1=0.95, b2=0.99, eps=1e-8, gamma=0.025, weight_decay=0.0):
    """The authors' approximate MARS: AdamW on corrected gradients of norm at most 1; the gradient before the first is 0."""
    before = [np.zeros_like(p), *grads[:-1]]
    c = [g + gamma * b1 / (1 - b1) * (g - last) for g, last in zip(grads, before, strict=True)]
    c = [x / max(1.0, norm(x)) for x in c]
    return adamw(p, c, learning_rate, weight_decay, b1=b1, b2=b2, eps=eps)


# Sign and bounded


def lion(p, grads, learning_rate, b1=0.9, b2=0.99, weight_decay=0.0):
    """Chen et al. 2023, Algorithm 2."""
    m, path = 0.0, []
    for g in grads:
        p = p * (1 - learning_rate * weight_decay) - learning_rate * np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
        path.append(p)
    return path


def adam_atan2(p, grads, learning_rate, b1=0.9, b2=0.99, a=1.27, b=1.0, weight_decay=0.0):
    """Adam with atan2 instead of division and eps (Everett et al. 2024)."""
    path = []
    for _, _, mhat, vhat in moments(grads, b1, b2):
        p = p * (1 - learning_rate * weight_decay) - learning_rate * a * np.arctan2(mhat, b * np.sqrt(vhat))
        path.append(p)
    return path


# Those that look at a whole array


def lamb(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-6, weight_decay=1e-2):
    """You et al. 2020, Algorithm 2, with phi the identity; a ratio with a zero norm is 1."""
    path = []
    for _, _, mhat, vhat in moments(grads, b1, b2):
        u = mhat / (np.sqrt(vhat) + eps) + weight_decay * p
        p = p - learning_rate * (norm(p) / norm(u) if norm(p) * norm(u) else 1.0) * u
        path.append(p)
    return path


def stable_adamw(p, grads, learning_rate, b1=0.9, b2=0.99, eps=1e-6, weight_decay=1e-2):
    """StableAdamW of optimi: the rate, of the decay too, is divided by the RMS of g / sqrt(vhat) where that is above 1."""
    path = []
    for _, g, mhat, vhat in moments(grads, b1, b2):
        rate = learning_rate / max(1.0, rms(g / np.maximum(np.sqrt(vhat), eps)))
        p = p * (1 - rate * weight_decay) - rate * mhat / (np.sqrt(vhat) + eps)
        path.append(p)
    return path


def factored(v, a, b, least=0.0):
    """Adafactor's estimate of v from its mean over axis a and its mean over axis b."""
    row, column = v.mean(a, keepdims=True), v.mean(b, keepdims=True)
    return row * column / np.maximum(row.mean(b, keepdims=True), least)


def adafactor(p, grads, learning_rate, beta2_decay=-0.8, eps1=None, eps2=1e-3, d=1.0, weight_decay=0.0):
    """torch.optim.Adafactor. The averages of rows and columns are those of the whole average, which is kept here."""
    v, path, eps1 = 0.0, [], np.finfo(np.float64).eps if eps1 is None else eps1
    for t, g in enumerate(grads, start=1):
        rate = max(eps2, rms(p)) * min(learning_rate, 1 / np.sqrt(t))
        v = (1 - t**beta2_decay) * v + t**beta2_decay * g * g
        u = g / np.maximum(np.sqrt(factored(v, -1, -2, eps1) if p.ndim > 1 else v), eps1)
        p = p * (1 - learning_rate * weight_decay) - rate * u / max(1.0, rms(u) / d)
        path.append(p)
    return path


def big_vision_adafactor(
    p,
    grads,
    learning_rate,
    decay_rate=0.8,
    beta2_cap=0.999,
    momentum=0.9,
    eps=1e-30,
    min_dim_size_to_factor=32,
    clipping_threshold=None,
    weight_decay=0.0,
):
    """scale_by_adafactor of big_vision, where optax's factored RMS takes the two largest axes, if both are large enough."""
    m, v, path = 0.0, 0.0, []
    axes = np.argsort(p.shape)[-2:]
    large = len(axes) == 2 and min(p.shape[a] for a in axes) >= min_dim_size_to_factor
    for t, g in enumerate(grads, start=1):
        b2 = min(beta2_cap, 1 - t**-decay_rate)
        v = b2 * v + (1 - b2) * (g * g + eps)
        u = g / np.sqrt(factored(v, *axes) if large else v)
        u = u / max(1.0, rms(u) / (clipping_threshold or np.inf))
        m = momentum * m + (1 - momentum) * u
        p = p - learning_rate * (m + weight_decay * p)
        path.append(p)
    return path


def block_means(x, blocks):
    """Every element replaced by the mean over its block; `blocks` counts the blocks along each of the last axes."""
    blocks = (1,) * (x.ndim - len(blocks)) + tuple(blocks)
    split = np.reshape(x, [n for size, count in zip(x.shape, blocks, strict=True) for n in (count, size // count)])
    means = split.mean(tuple(range(1, split.ndim, 2)), keepdims=True)
    return np.broadcast_to(means, split.shape).reshape(x.shape)


def adam_mini(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, blocks=None):
    """Zhang et al. 2024: AdamW with one vhat a block. Without `blocks` (of this array) a block is an index of the last axis."""
    blocks, path = (p.shape[-1:] if p.ndim > 1 else ()) if blocks is None else blocks, []
    for _, _, mhat, vhat in moments(grads, b1, b2):
        u = mhat / (np.sqrt(block_means(vhat, blocks)) + eps)
        p = p * (1 - learning_rate * weight_decay) - learning_rate * u
        path.append(p)
    return path


# Without a schedule, without a learning rate


def schedule_free_adamw(
    p,
    grads,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
    decay_at_z=False,
):
    """The authors' reference (Defazio et al. 2024, Algorithm 1): the parameters are y, where the gradient is taken."""
    x, y, z, total, path = p, p, p, 0.0, []
    for t, g, _, vhat in moments(grads, b1, b2):
        rate = learning_rate * (min(1.0, t / warmup_steps) if warmup_steps else 1.0)  # never falls: is its own maximum
        weight = t**r * rate**weight_lr_power
        total += weight
        z = z - rate * (g / (np.sqrt(vhat) + eps) + weight_decay * (z if decay_at_z else y))
        x = x + weight / total * (z - x)
        y = b1 * x + (1 - b1) * z
        path.append(y)
    return path


def prodigy(
    p,
    grads,
    learning_rate=1.0,
    b1=0.9,
    b2=0.999,
    b3=None,
    eps=1e-8,
    weight_decay=0.0,
    use_bias_correction=False,
    safeguard_warmup=False,
    d0=1e-6,
    d_coef=1.0,
    growth_rate=None,
):
    """The authors' code (Mishchenko & Defazio 2023), all parameters in one array."""
    start, b3, growth_rate = p, np.sqrt(b2) if b3 is None else b3, growth_rate or np.inf
    m, v, s, numerator, d, top, path = 0.0, 0.0, 0.0, 0.0, d0, d0, []
    for t, g in enumerate(grads, start=1):
        rate = d * learning_rate * (np.sqrt(1 - b2**t) / (1 - b1**t) if use_bias_correction else 1.0)
        numerator = b3 * numerator + d / d0 * rate * np.sum(g * (start - p))
        s = b3 * s + d / d0 * (d if safeguard_warmup else rate) * g
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * (d * g) ** 2
        estimate = d_coef * numerator / np.sum(abs(s))
        top = max(top, estimate)
        d = min(top, growth_rate * (max(d, estimate) if d == d0 else d))
        p = p * (1 - rate * weight_decay) - rate * m / (np.sqrt(v) + d * eps)
        path.append(p)
    return path


# Matrices


def newton_schulz(x, steps, eps):
    """Muon's quintic, which takes the singular values near to 1. The authors transpose a tall x to save work only."""
    x = x / (norm(x) + eps)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon(
    p,
    grads,
    learning_rate,
    momentum=0.95,
    nesterov=True,
    ns_steps=5,
    scale="keller",
    ns_dtype=None,
    ns_eps=1e-7,
    momentum_form="lerp",
    output_axis=-1,
    weight_decay=0.0,
    adam_b1=0.9,
    adam_b2=0.95,
    adam_eps=1e-10,
    adam_ratio=None,
):
    """Jordan et al. 2024; "moonlight" is Liu et al. 2025. What has not two axes gets AdamW with `adam_ratio` of the rate."""
    if p.ndim != 2:
        ratio = {"keller": 0.015, "moonlight": 1.0}[scale] if adam_ratio is None else adam_ratio
        return adamw(p, grads, ratio * learning_rate, weight_decay, b1=adam_b1, b2=adam_b2, eps=adam_eps)
    inputs, outputs = p.shape if output_axis == -1 else p.shape[::-1]
    factor = max(1.0, outputs / inputs) ** 0.5 if scale == "keller" else 0.2 * max(p.shape) ** 0.5
    buffer, new, path = 0.0, 1 - momentum if momentum_form == "lerp" else 1.0, []
    for g in grads:
        buffer = momentum * buffer + new * g
        u = momentum * buffer + new * g if nesterov else buffer
        u = newton_schulz(u.astype(ns_dtype or u.dtype), ns_steps, ns_eps)
        p = p * (1 - learning_rate * weight_decay) - learning_rate * factor * u
        path.append(p)
    return path


def rotate(x, bases, side):
    """Each axis of x that is in `bases`, turned into its basis (side 0) or back (side 1)."""
    for axis, q in bases.items():
        x = np.moveaxis(np.tensordot(x, q, (axis, side)), -1, axis)
    return x


def soap(
    p,
    grads,
    learning_rate,
    b1=0.95,
    b2=0.95,
    eps=1e-8,
    weight_decay=1e-2,
    precondition_frequency=10,
    max_precondition_size=10000,
):
    """The authors' code (Vyas et al. 2024, Algorithm 3): the first step only sets the bases; the decay comes after the step."""
    axes = [a for a in range(p.ndim) if p.ndim > 1 and p.shape[a] <= max_precondition_size]
    flat = [{a: np.moveaxis(g, a, 0).reshape(g.shape[a], -1) for a in axes} for g in grads]
    gram = {a: (1 - b2) * x @ x.T for a, x in flat[0].items()}
    bases = {a: eigh(gram[a])[1][:, ::-1] for a in axes}
    m, v, path = 0.0, 0.0, [p]
    for t, g in enumerate(grads[1:], start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * rotate(g, bases, 0) ** 2
        u = rotate(rotate(m, bases, 0) / (np.sqrt(v) + eps), bases, 1)
        p = p - learning_rate * np.sqrt(1 - b2**t) / (1 - b1**t) * u
        p = p - learning_rate * weight_decay * p
        gram = {a: b2 * gram[a] + (1 - b2) * x @ x.T for a, x in flat[t].items()}
        for a in axes if t % precondition_frequency == 0 else []:
            order = np.argsort(-np.diag(bases[a].T @ gram[a] @ bases[a]))
            v = np.take(v, order, axis=a)
            bases[a] = qr(gram[a] @ bases[a][:, order])[0]
        path.append(p)
    return path
