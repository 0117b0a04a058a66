"""Of masks and groups."""

import jadam
from wrong_calls import BIAS, PARAMS, TX

CALLS = {
    # masks and groups
    "adamw: '**/bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: jadam.adamw(
        1e-3, mask="**/bias"
    ),
    "masked: 'bias' is not a mask; write jadam.match('bias') to select parameters by path.": lambda: jadam.masked(TX, "bias"),
    "masked: constant_schedule(value=1.0) is not a mask; give a tree of bools or a function of the parameters.": lambda: (
        jadam.masked(TX, jadam.constant_schedule(1.0))
    ),
    "masked.init: match('**/biass') matches no parameter; there are 'dense/bias', ...": lambda: jadam.masked(
        TX, jadam.match("**/biass")
    ).init(PARAMS),
    "partition.init: no mask covers the parameter at dense/kernel; add a last pair (True, transformation).": (
        lambda: jadam.partition([(BIAS, TX)]).init(PARAMS)
    ),
    "partition.init: the parameter at dense/bias has the label 'b', but the transformations are for 'a'.": (
        lambda: jadam.partition({"a": TX}, {"dense": {"kernel": "a", "bias": "b"}}).init(PARAMS)
    ),
    "partition: transformations by label need param_labels, a tree of labels or a function.": lambda: jadam.partition(
        {"a": TX}
    ),
    "partition: param_labels goes with transformations by label, not with (mask, transformation) pairs.": lambda: (
        jadam.partition([(True, TX)], {"dense": "a"})
    ),
    "masked.init: the mask has 1 at dense/bias; a mask is made of Python bools.": lambda: jadam.masked(TX, {"dense": 1}).init(
        PARAMS
    ),
    "match(): give at least one pattern, such as '**/bias'.": lambda: jadam.match(),
    "match(3): a pattern is a string, such as '**/bias'.": lambda: jadam.match(3),  # pyright: ignore[reportArgumentType]
    "ndim_at_least(-1): ndim must be an integer >= 0.": lambda: jadam.ndim_at_least(-1),
}
