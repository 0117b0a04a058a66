"""Each optimizer once more, on float64 arrays of numpy, independent of JAX and of jadam: what the tests compare with.

An oracle takes one parameter (an array of any shape, never changed in place), the list of its gradients, a constant learning
rate and the arguments of the optimizer, and yields the parameter after each step. Masks are left to other tests. `CASES` has
the arguments to try: for every optimizer its defaults, then values that make every argument count within 30 steps.
"""

from oracles import arrays, elementwise

CASES = elementwise.CASES | arrays.CASES
ORACLES = {name: getattr(module, name) for module in (elementwise, arrays) for name in module.CASES}

GLOBAL = {"prodigy"}
"""Those that look at all parameters together: they get all leaves raveled and concatenated."""

LEARNING_RATES = {
    "prodigy": 1.0,
    "adadelta": 10.0,
    "adafactor": 1.0,
    "adagrad": 0.5,
    "muon": 0.5,
    "normuon": 0.5,
    "schedule_free_adamw": 0.5,
}
"""For the test that an optimizer converges on a quadratic in 400 steps, where 0.05 is not of the right size."""
