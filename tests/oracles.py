"""Each optimizer once more, on numbers of plain Python, independent of JAX and of jadam: what the tests compare with.

An oracle takes one parameter, its gradients and the arguments of the optimizer, and gives the parameter after each step.
`CASES` has the arguments to try, for every optimizer at least its defaults.
"""

from math import sqrt

CASES = {
    "sgd": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "adam": [{}, {"b1": 0.0, "b2": 0.95, "eps": 1e-3}, {"b2": 0.99999, "eps_root": 1e-6}],
    "adamw": [{}, {"weight_decay": 0.3, "b1": 0.8}, {"weight_decay": 1e-3, "decay": "independent"}],
}


def sgd(p, grads, learning_rate, momentum=None, nesterov=False):
    """torch.optim.SGD without dampening."""
    buffer, path = 0.0, []
    for g in grads:
        buffer = (momentum or 0.0) * buffer + g
        p -= learning_rate * (g + momentum * buffer if nesterov else buffer)
        path.append(p)
    return path


def adam(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, shrink=0.0):
    """Kingma & Ba 2015, Algorithm 1. Each step first multiplies the parameter by `1 - shrink`, as torch's AdamW does."""
    m, v, path = 0.0, 0.0, []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        mhat, vhat = m / (1 - b1**t), v / (1 - b2**t)
        p = p * (1 - shrink) - learning_rate * mhat / (sqrt(vhat + eps_root) + eps)
        path.append(p)
    return path


def adamw(p, grads, learning_rate, weight_decay=1e-2, decay="decoupled", **kwargs):
    """torch.optim.AdamW; "independent" is optimi's fully decoupled decay at a constant learning rate."""
    shrink = weight_decay if decay == "independent" else learning_rate * weight_decay
    return adam(p, grads, learning_rate, shrink=shrink, **kwargs)
