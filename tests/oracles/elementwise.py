"""The oracles of what treats each element of an array alike."""

import numpy as np

CASES = {
    "sgd": [
        *({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.8, "dampening": 0.3}),
        *({"weight_decay": 0.3}, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.3}),
    ],
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
    "adabelief": [{}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}, {"eps": 0.1, "eps_root": 1e-3}],
    "yogi": [{}, {"b1": 0.8, "b2": 0.9, "eps": 1e-2, "initial_accumulator_value": 0.1}],
    "lion": [{}, {"b1": 0.8, "b2": 0.95, "weight_decay": 0.3}],
    "adan": [{}, {"b1": 0.9, "b2": 0.8, "b3": 0.95, "eps": 1e-3, "weight_decay": 0.3}, {"weight_decay": 0.3, "no_prox": True}],
    "adopt": [{}, {"b1": 0.8, "b2": 0.99, "eps": 0.3, "weight_decay": 0.3}, {"b2": 0.99, "use_clipping": False}],
    "ademamix": [
        {},
        {"b1": 0.8, "b2": 0.95, "b3": 0.999, "alpha": 5.0, "eps": 1e-3, "weight_decay": 0.3},
        {"alpha": 5.0, "alpha_warmup": 10, "b3_warmup": 20},
    ],
    "adam_atan2": [{}, {"b1": 0.8, "b2": 0.95, "a": 2.0, "b": 0.5, "weight_decay": 0.3}],
    "laprop": [{}, {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.01}],
    "schedule_free_adamw": [
        {},
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3, "warmup_steps": 10},
        {"weight_decay": 0.3, "warmup_steps": 10, "r": 1.0, "weight_lr_power": 0.5, "decay_at_z": True},
    ],
}


def moments(grads, b1, b2):
    """Adam's averages of the gradients and of their squares, both bias-corrected, step by step: t, g, mhat, vhat."""
    m, v = 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        yield t, g, m / (1 - b1**t), v / (1 - b2**t)


# SGD and its scalings


def sgd(p, grads, lr, momentum=None, dampening=0.0, nesterov=False, weight_decay=0.0):
    """torch.optim.SGD: the first buffer is the gradient itself, without dampening, and with the decay."""
    buffer = 0.0
    for t, g in enumerate(grads):
        g = g + weight_decay * p
        buffer = momentum * buffer + (1 - dampening) * g if momentum and t else g
        yield (p := p - lr * (g + momentum * buffer if nesterov else buffer))


def rmsprop(p, grads, lr, decay=0.99, eps=1e-8, centered=False, momentum=None):
    """torch.optim.RMSprop."""
    m, v, buffer = 0.0, 0.0, 0.0
    for g in grads:
        m = decay * m + (1 - decay) * g
        v = decay * v + (1 - decay) * g * g
        buffer = (momentum or 0.0) * buffer + g / (np.sqrt(v - m * m if centered else v) + eps)
        yield (p := p - lr * buffer)


def adagrad(p, grads, lr, initial_accumulator_value=0.0, eps=1e-10):
    """torch.optim.Adagrad."""
    v = initial_accumulator_value
    for g in grads:
        v = v + g * g
        yield (p := p - lr * g / (np.sqrt(v) + eps))


def adadelta(p, grads, lr, rho=0.9, eps=1e-6):
    """torch.optim.Adadelta."""
    v, a = 0.0, 0.0
    for g in grads:
        v = rho * v + (1 - rho) * g * g
        u = np.sqrt(a + eps) / np.sqrt(v + eps) * g
        a = rho * a + (1 - rho) * u * u
        yield (p := p - lr * u)


# Adam and its second moments


def adam(p, grads, lr, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, eps_form="standard", shrink=0.0):
    """Kingma & Ba 2015, Algorithm 1; "eps_hat" is section 2's efficient form, eps beside the uncorrected root.

    Each step first multiplies the parameter by `1 - shrink`, as torch's AdamW does.
    """
    for t, _, mhat, vhat in moments(grads, b1, b2):
        added = eps / np.sqrt(1 - b2**t) if eps_form == "eps_hat" else eps
        yield (p := p * (1 - shrink) - lr * mhat / (np.sqrt(vhat + eps_root) + added))


def adamw(p, grads, lr, weight_decay=1e-2, decay="decoupled", **kwargs):
    """torch.optim.AdamW. At a constant rate optimi's "independent" is free of the rate, and AdamC's "corrected" is torch's."""
    shrink = weight_decay if decay == "independent" else lr * weight_decay
    return adam(p, grads, lr, shrink=shrink, **kwargs)


def adamax(p, grads, lr, b1=0.9, b2=0.999, eps=1e-8):
    """torch.optim.Adamax: eps inside the maximum."""
    u = 0.0
    for _, g, mhat, _ in moments(grads, b1, b2):
        u = np.maximum(b2 * u, abs(g) + eps)
        yield (p := p - lr * mhat / u)


def amsgrad(p, grads, lr, b1=0.9, b2=0.999, eps=1e-8, maximum="uncorrected"):
    """torch.optim.Adam(amsgrad=True); "corrected" is optax's; "paper" is Reddi et al. 2018, Algorithm 2 (with eps)."""
    top = 0.0
    for t, _, mhat, vhat in moments(grads, b1, b2):
        c1, c2 = 1 - b1**t, 1 - b2**t
        top = np.maximum(top, vhat if maximum == "corrected" else vhat * c2)
        m = mhat * c1 if maximum == "paper" else mhat
        yield (p := p - lr * m / (np.sqrt(top / c2 if maximum == "uncorrected" else top) + eps))


def nadam(p, grads, lr, b1=0.9, b2=0.999, eps=1e-8, momentum_decay=4e-3):
    """torch.optim.NAdam."""
    product = 1.0
    for t, g, mhat, vhat in moments(grads, b1, b2):
        mu, after = (b1 * (1 - 0.5 * 0.96 ** (n * momentum_decay)) for n in (t, t + 1))
        product *= mu
        u = (1 - mu) * g / (1 - product) + after * mhat * (1 - b1**t) / (1 - product * after)
        yield (p := p - lr * u / (np.sqrt(vhat) + eps))


def nadamw(p, grads, lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2):
    """NAdamW of AlgoPerf: the momentum is averaged with the gradient once more."""
    for t, g, mhat, vhat in moments(grads, b1, b2):
        u = b1 * mhat + (1 - b1) * g / (1 - b1**t)
        yield (p := p * (1 - lr * weight_decay) - lr * u / (np.sqrt(vhat) + eps))


def radam(p, grads, lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=None):
    """torch.optim.RAdam with decoupled decay: rectified where rho > 5, eps on the uncorrected root."""
    limit = 2 / (1 - b2) - 1
    for t, _, mhat, vhat in moments(grads, b1, b2):
        c2 = 1 - b2**t
        rho = limit - 2 * t * b2**t / c2
        if rho > 5:
            r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            mhat = r * mhat * np.sqrt(c2) / (np.sqrt(vhat * c2) + eps)
        yield (p := p * (1 - lr * (weight_decay or 0.0)) - lr * mhat)


def adabound(p, grads, lr, b1=0.9, b2=0.999, eps=1e-8, final_learning_rate=0.1, gamma=1e-3, amsbound=False):
    """The authors' code: bounds on the rate of each element, bias corrections inside, eps on the uncorrected root."""
    top = 0.0
    for t, _, mhat, vhat in moments(grads, b1, b2):
        c1, c2 = 1 - b1**t, 1 - b2**t
        v = top = np.maximum(top, vhat * c2) if amsbound else vhat * c2
        lower, upper = final_learning_rate * (1 - 1 / (gamma * t + 1)), final_learning_rate * (1 + 1 / (gamma * t))
        yield (p := p - np.clip(lr * np.sqrt(c2) / c1 / (np.sqrt(v) + eps), lower, upper) * mhat * c1)


def adabelief(p, grads, lr, b1=0.9, b2=0.999, eps=1e-16, eps_root=None, weight_decay=None):
    """The authors' code without rectification: eps is added to the average too, at every step."""
    m, s, eps_root = 0.0, 0.0, eps if eps_root is None else eps_root
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps_root
        u = m / (1 - b1**t) / (np.sqrt(s / (1 - b2**t)) + eps)
        yield (p := p * (1 - lr * (weight_decay or 0.0)) - lr * u)


def yogi(p, grads, lr, b1=0.9, b2=0.999, eps=1e-3, initial_accumulator_value=1e-6):
    """Zaheer et al. 2018, Algorithm 2, with Adam's bias corrections; both averages begin at the same value."""
    m = v = initial_accumulator_value
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g * g) * g * g
        yield (p := p - lr * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps))


# Other momenta


def adan(p, grads, lr, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, weight_decay=0.0, no_prox=False):
    """The authors' code: betas are decays; the first difference is zero; the decay divides unless `no_prox`."""
    m, w, n, last = 0.0, 0.0, 0.0, grads[0]
    for t, g in enumerate(grads, start=1):
        d, last = g - last, g
        m = b1 * m + (1 - b1) * g
        w = b2 * w + (1 - b2) * d
        n = b3 * n + (1 - b3) * (g + b2 * d) ** 2
        u = (m / (1 - b1**t) + b2 * w / (1 - b2**t)) / (np.sqrt(n / (1 - b3**t)) + eps)
        p = p * (1 - lr * weight_decay) if no_prox else p
        yield (p := (p - lr * u) / (1 if no_prox else 1 + lr * weight_decay))


def adopt(p, grads, lr, b1=0.9, b2=0.9999, eps=1e-6, weight_decay=0.0, use_clipping=True):
    """The authors' code: the first step only sets v; afterwards g is divided by the root of the last v, before the momentum."""
    m, v = 0.0, grads[0] ** 2
    yield p
    for t, g in enumerate(grads[1:], start=1):
        u = g / np.maximum(np.sqrt(v), eps)
        m = b1 * m + (1 - b1) * (np.clip(u, -(t**0.25), t**0.25) if use_clipping else u)
        v = b2 * v + (1 - b2) * g * g
        yield (p := p - lr * (m + weight_decay * p))


def ademamix(
    p, grads, lr, b1=0.9, b2=0.999, b3=0.9999, alpha=2.0, eps=1e-8, weight_decay=0.0, alpha_warmup=None, b3_warmup=None
):
    """The authors' code: b3 warms up linearly in the average's half-life, up to its 1e-8. The slow average is not corrected."""
    slow = 0.0
    first, last = (np.log(0.5) / np.log(b + 1e-8) - 1 for b in (b1, b3))
    for t, g, mhat, vhat in moments(grads, b1, b2):
        a, b = (min(1.0, t / warmup) if warmup else 1.0 for warmup in (alpha_warmup, b3_warmup))
        decay = 0.5 ** (1 / ((1 - b) * first + b * last + 1)) if b < 1 else b3
        slow = decay * slow + (1 - decay) * g
        yield (p := p - lr * ((mhat + a * alpha * slow) / (np.sqrt(vhat) + eps) + weight_decay * p))


def laprop(p, grads, lr, b1=0.9, b2=0.999, eps=1e-15, weight_decay=0.0):
    """The authors' code: momentum of normalised gradients; the decay comes after the step, free of the learning rate."""
    m = 0.0
    for t, g, _, vhat in moments(grads, b1, b2):
        m = b1 * m + (1 - b1) * lr * g / (np.sqrt(vhat) + eps)
        yield (p := (p - m / (1 - b1**t)) * (1 - weight_decay))


def schedule_free_adamw(
    p, grads, lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, warmup_steps=0, r=0.0, weight_lr_power=2.0, decay_at_z=False
):
    """The authors' reference (Defazio et al. 2024, Algorithm 1): the parameters are y, where the gradient is taken."""
    x, y, z, total = p, p, p, 0.0
    for t, g, _, vhat in moments(grads, b1, b2):
        rate = lr * (min(1.0, t / warmup_steps) if warmup_steps else 1.0)  # never falls: is its own maximum
        weight = t**r * rate**weight_lr_power
        total += weight
        z = z - rate * (g / (np.sqrt(vhat) + eps) + weight_decay * (z if decay_at_z else y))
        x = x + weight / total * (z - x)
        yield (y := b1 * x + (1 - b1) * z)


# Sign and bounded


def lion(p, grads, lr, b1=0.9, b2=0.99, weight_decay=0.0):
    """Chen et al. 2023, Algorithm 2."""
    m = 0.0
    for g in grads:
        p = p * (1 - lr * weight_decay) - lr * np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
        yield p


def adam_atan2(p, grads, lr, b1=0.9, b2=0.99, a=1.27, b=1.0, weight_decay=0.0):
    """Adam with atan2 instead of division and eps (Everett et al. 2024)."""
    for _, _, mhat, vhat in moments(grads, b1, b2):
        yield (p := p * (1 - lr * weight_decay) - lr * a * np.arctan2(mhat, b * np.sqrt(vhat)))
