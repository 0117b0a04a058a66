"""Records runs of torch's optimizers, of torch 2.13.0 on CPU, for `tests/checkpoint/test_torch.py`.

`python tests/bench/torch_states.py` writes `tests/data/torch_states.npz`: the gradients of ten steps, and for each optimizer
and dtype the parameters and the state_dict after five of them, and the parameters after ten.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

OUT = Path(__file__).parent.parent / "data" / "torch_states.npz"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("Adam", {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6}),
    "adamw": ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
    "amsgrad": ("Adam", {"lr": 1e-2, "betas": (0.8, 0.95), "amsgrad": True}),
    "sgd": ("SGD", {"lr": 1e-2, "momentum": 0.9, "nesterov": True}),
    "sgd_dampened": ("SGD", {"lr": 1e-2, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
}
SHAPES = [(2, 3), (2,)]
"""Of the weight and the bias of `Linear(3, 2)`."""


STEPS, STOP = 10, 5


def gradients() -> list[np.ndarray]:
    """Of each parameter, by step."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((STEPS, *shape)) * np.exp(rng.standard_normal((STEPS, *shape))) for shape in SHAPES]


def record(torch: Any, case: str, dtype: str) -> dict[str, np.ndarray]:
    """One run, from parameters of one."""
    kind, options = CASES[case]
    params = [torch.ones(shape, dtype=getattr(torch, dtype), requires_grad=True) for shape in SHAPES]
    optimizer = getattr(torch.optim, kind)(params, **options)
    found: dict[str, np.ndarray] = {}
    for step in range(STEPS):
        if step == STOP:
            found |= {f"params/{n}": p.detach().numpy().copy() for n, p in enumerate(params)}
            for n, entry in optimizer.state_dict()["state"].items():
                found |= {f"state/{n}/{name}": value.numpy().copy() for name, value in entry.items()}
        for p, g in zip(params, gradients(), strict=True):
            p.grad = torch.tensor(g[step].astype(dtype))
        optimizer.step()
    found |= {f"after/{n}": p.detach().numpy() for n, p in enumerate(params)}
    return {f"{case}/{dtype}/{name}": value for name, value in found.items()}


def main() -> None:
    """Records all."""
    torch = importlib.import_module("torch")
    arrays = {"torch": np.asarray(torch.__version__)} | {f"grads/{n}": g for n, g in enumerate(gradients())}
    for case in CASES:
        for dtype in ("float32", "float64"):
            arrays |= record(torch, case, dtype)
    np.savez_compressed(OUT, allow_pickle=False, **arrays)
    print(f"{len(arrays)} arrays, {OUT.stat().st_size:,} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
