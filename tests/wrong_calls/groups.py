"""Of masks and groups."""

import re

import jax
import numpy as np

import jadam
from wrong_calls import BIAS, ONES, PARAMS, traced

SGD, LAST, ODD = jadam.sgd(1.0), jadam.sgd(0.5), jadam.sgd(2.0)


def by_leaf(of_leaf):
    """A mask or label function."""
    return lambda params: jax.tree.map(of_leaf, params)


CALLS = {
    # masks
    "adamw: '**/bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: jadam.adamw(
        1e-3, mask="**/bias"
    ),
    "masked: 'bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: jadam.masked(
        SGD, "bias"
    ),
    "masked: 'dense/bias' is not a mask; write jadam.match('dense/bias') to select parameters by path.": lambda: jadam.masked(
        SGD, "dense/bias"
    ),
    (
        "masked: ['bias', 'scale'] is not a mask; write jadam.match('**/bias', '**/scale') to select parameters by path."
    ): lambda: jadam.masked(SGD, ["bias", "scale"]),
    "masked: ('**/bias',) is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: jadam.masked(
        SGD, ("**/bias",)
    ),
    "masked: 3 is not a mask; give a tree of bools or a function of the parameters.": lambda: jadam.masked(SGD, 3),
    "masked: 1.5 is not a mask; give a tree of bools or a function of the parameters.": lambda: jadam.masked(SGD, 1.5),
    "masked: b'bias' is not a mask; give a tree of bools or a function of the parameters.": lambda: jadam.masked(SGD, b"bias"),
    "masked: re.compile('bias') is not a mask; give a tree of bools or a function of the parameters.": lambda: jadam.masked(
        SGD, re.compile("bias")
    ),
    (
        "masked: scale_by_learning_rate(learning_rate=0.5) is not a mask; give a tree of bools or a function of the parameters."
    ): lambda: jadam.masked(SGD, LAST),
    ("masked: constant_schedule(value=1.0) is not a mask; give a tree of bools or a function of the parameters."): lambda: (
        jadam.masked(SGD, jadam.constant_schedule(1.0))
    ),
    "masked: array([ True, True]) is not a mask; give a tree of bools or a function of the parameters.": lambda: jadam.masked(
        SGD, np.ones(2, bool)
    ),
    "masked: the mask has 1 at dense; a mask is made of bools.": lambda: jadam.masked(SGD, {"dense": 1}),
    "masked: the mask has 0.0 at dense/bias; a mask is made of bools.": lambda: jadam.masked(SGD, {"dense": {"bias": 0.0}}),
    "masked: the mask has 'bias' at dense; a mask is made of bools.": lambda: jadam.masked(SGD, {"dense": "bias"}),
    "masked: the mask has Array([1., 1., 1.], dtype=float32) at norm; a mask is made of bools.": lambda: jadam.masked(
        SGD, {"norm": ONES}
    ),
    "masked: the mask has len at norm; a mask is made of bools.": lambda: jadam.masked(SGD, {"norm": len}),
    (
        "masked: the mask is traced at dense; it may depend on structure, paths, shapes and dtypes of the "
        "parameters. For one that depends on values, compute a tree first, outside of jit, and pass that."
    ): lambda: jax.jit(lambda x: jadam.masked(SGD, {"dense": x > 0}))(1.0),
    "masked.init: the mask does not fit the parameters: more is not among the parameters.": lambda: jadam.masked(
        SGD, {"dense": True, "more": True}
    ).init(PARAMS),
    "masked.init: the mask does not fit the parameters: dense/bias is missing.": lambda: jadam.masked(
        SGD, {"dense": {"kernel": True}}
    ).init(PARAMS),
    ("masked.init: the mask does not fit the parameters: at dense it has a list, the parameters have a dict."): lambda: (
        jadam.masked(SGD, {"dense": [True, False]}).init(PARAMS)
    ),
    ("masked.init: the mask does not fit the parameters: at dense/bias it has None, the parameters have an array."): lambda: (
        jadam.masked(SGD, {"dense": {"kernel": True, "bias": None}}).init(PARAMS)
    ),
    (
        "masked.init: the mask does not fit the parameters: at dense/kernel it has a dict, the parameters have an array."
    ): lambda: jadam.masked(SGD, {"dense": {"kernel": {"a": True}, "bias": True}}).init(PARAMS),
    ("masked.init: the mask does not fit the parameters: at the root it has a tuple, the parameters have a dict."): lambda: (
        jadam.masked(SGD, (True,)).init(PARAMS)
    ),
    ("masked.init: the mask does not fit the parameters: at the root it has a list, the parameters have a dict."): lambda: (
        jadam.masked(SGD, []).init(PARAMS)
    ),
    ("masked.init: the mask does not fit the parameters: at the root it has None, the parameters have a dict."): lambda: (
        jadam.masked(SGD, lambda params: None).init(PARAMS)
    ),
    "masked.init: the mask has 'bias' at dense/bias; a mask is made of bools.": lambda: jadam.masked(
        SGD, lambda params: "bias"
    ).init(PARAMS),
    "adamw.init: the mask has 2 at dense/bias; a mask is made of bools.": lambda: jadam.adamw(
        1e-3, mask=by_leaf(lambda x: 2)
    ).init(PARAMS),
    (
        "adamw.init: the mask is traced at dense/bias; it may depend on structure, paths, shapes and dtypes "
        "of the parameters. For one that depends on values, compute a tree first, outside of jit, and pass "
        "that."
    ): lambda: jadam.adamw(1e-3, mask=by_leaf(lambda x: x.sum() > 0)).init(PARAMS),
    (
        "adamw.init: the mask reads the values of the parameters; it may depend on structure, paths, shapes "
        "and dtypes of the parameters. For one that depends on values, compute a tree first, outside of jit, "
        "and pass that."
    ): lambda: jax.jit(jadam.adamw(1e-3, mask=by_leaf(lambda x: bool(x.sum() > 0))).init)(PARAMS),
    (
        "masked.update: the mask reads the values of the parameters; it may depend on structure, paths, "
        "shapes and dtypes of the parameters. For one that depends on values, compute a tree first, outside "
        "of jit, and pass that."
    ): lambda: traced(jadam.masked(SGD, by_leaf(lambda x: np.asarray(x).sum() > 0))),
    (
        "freeze.update: the mask reads the values of the parameters; it may depend on structure, paths, "
        "shapes and dtypes of the parameters. For one that depends on values, compute a tree first, outside "
        "of jit, and pass that."
    ): lambda: traced(jadam.freeze(by_leaf(lambda x: x.sum().item() > 0))),
    (
        "masked.init: the mask is traced at dense/bias; it may depend on structure, paths, shapes and dtypes "
        "of the parameters. For one that depends on values, compute a tree first, outside of jit, and pass "
        "that."
    ): lambda: jadam.masked(SGD, by_leaf(lambda x: x.sum() > 0)).init(PARAMS),
    (
        "muon.update: the mask reads the values of the parameters; it may depend on structure, paths, shapes "
        "and dtypes of the parameters. For one that depends on values, compute a tree first, outside of jit, "
        "and pass that."
    ): lambda: traced(jadam.muon(0.1, matrices=by_leaf(lambda x: x.ndim == 2 and float(x.sum()) > 0))),
    "4 is not a mask; give a tree of bools or a function of the parameters.": lambda: BIAS | 4,
    "'bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: "bias" & BIAS,
    "match('**/bias') has no truth value; combine masks with ~ | & instead of `not`, `or`, `and`.": lambda: BIAS and BIAS,
    "ndim_at_least(2) has no truth value; combine masks with ~ | & instead of `not`, `or`, `and`.": lambda: (
        not jadam.ndim_at_least(2)
    ),
    # match and ndim_at_least
    "match(): give at least one pattern, such as '**/bias'.": lambda: jadam.match(),
    "match(3): a pattern is a string, such as '**/bias'.": lambda: jadam.match(3),
    "match(None): a pattern is a string, such as '**/bias'.": lambda: jadam.match(None),
    "match(['a']): write match('a').": lambda: jadam.match(["a"]),
    "match(('**/bias', '**/scale')): write match('**/bias', '**/scale').": lambda: jadam.match(("**/bias", "**/scale")),
    "match(re.compile('a')): a pattern is a string, such as '**/bias'.": lambda: jadam.match(re.compile("a")),
    "match([]): a pattern is a string, such as '**/bias'.": lambda: jadam.match([]),
    "masked.init: match('**/biass') matches no parameter; there are 'dense/bias', ...": lambda: jadam.masked(
        SGD, jadam.match("**/biass")
    ).init(PARAMS),
    "masked.init: match('bias') matches no parameter; '**/bias' does.": lambda: jadam.masked(SGD, jadam.match("bias")).init(
        PARAMS
    ),
    "masked.init: match('dense') matches no parameter; 'dense/**' does.": lambda: jadam.masked(SGD, jadam.match("dense")).init(
        PARAMS
    ),
    "match('bias') matches no parameter; there are none.": lambda: jadam.match("bias")({}),
    "ndim_at_least(-1): ndim must be an integer >= 0.": lambda: jadam.ndim_at_least(-1),
    "ndim_at_least(True): ndim must be an integer >= 0.": lambda: jadam.ndim_at_least(True),
    "ndim_at_least(1.5): ndim must be an integer >= 0.": lambda: jadam.ndim_at_least(1.5),
    "ndim_at_least('2'): ndim must be an integer >= 0.": lambda: jadam.ndim_at_least("2"),
    "ndim_at_least(None): ndim must be an integer >= 0.": lambda: jadam.ndim_at_least(None),
    # groups
    "partition: there are no groups; give at least one.": lambda: jadam.partition([]),
    "partition: None is not a list of groups; write [(mask, transformation), ...].": lambda: jadam.partition(None),
    "partition: 5 is not a list of groups; write [(mask, transformation), ...].": lambda: jadam.partition(5),
    "partition: 'ab' is not a list of groups; write [(mask, transformation), ...].": lambda: jadam.partition("ab"),
    (
        "partition: scale_by_learning_rate(learning_rate=1.0) is not a list of groups; write [(mask, transformation), ...]."
    ): lambda: jadam.partition(SGD),
    (
        "partition: group 0 is scale_by_learning_rate(learning_rate=1.0); write (mask, transformation) or "
        "(mask, transformation, name)."
    ): lambda: jadam.partition([SGD]),
    "partition: group 0 is True; write (mask, transformation) or (mask, transformation, name).": lambda: jadam.partition(
        (True, SGD)
    ),
    "partition: group 0 is (True,); write (mask, transformation) or (mask, transformation, name).": lambda: jadam.partition(
        [(True,)]
    ),
    (
        "partition: group 0 is (True, scale_by_learning_rate(learning_rate=1.0), 'a', 'b'); write (mask, "
        "transformation) or (mask, transformation, name)."
    ): lambda: jadam.partition([(True, SGD, "a", "b")]),
    (
        "partition: group 0 begins with scale_by_learning_rate(learning_rate=1.0); the mask comes first: "
        "(mask, transformation)."
    ): lambda: jadam.partition([(SGD, True)]),
    "partition: 'bias' is not a mask; write jadam.match('**/bias') to select parameters by path.": lambda: jadam.partition(
        [("bias", SGD), (True, LAST)]
    ),
    (
        "partition: the transformation of group '0' is 0.1, which is not a transformation; give one of "
        "jadam's, or an (init, update) pair."
    ): lambda: jadam.partition([(True, 0.1)]),
    (
        "partition: the transformation of group 'rest' is 0.1, which is not a transformation; give one of "
        "jadam's, or an (init, update) pair."
    ): lambda: jadam.partition([(BIAS, SGD), (True, 0.1, "rest")]),
    "partition: '' is not a name for a group; give a string.": lambda: jadam.partition([(True, SGD, "")]),
    "partition: 3 is not a name for a group; give a string.": lambda: jadam.partition([(True, SGD, 3)]),
    "partition: None is not a name for a group; give a string.": lambda: jadam.partition([(True, SGD, None)]),
    "partition: two groups are called 'a'; give each a name of its own.": lambda: jadam.partition(
        [(BIAS, SGD, "a"), (True, LAST, "a")]
    ),
    "partition: two groups are called '0'; give each a name of its own.": lambda: jadam.partition(
        [(BIAS, SGD), (True, LAST, "0")]
    ),
    ("partition.init: no mask covers the parameter at dense/kernel; add a last pair (True, transformation)."): lambda: (
        jadam.partition([(BIAS, SGD)]).init(PARAMS)
    ),
    ("partition: param_labels goes with transformations by label, not with (mask, transformation) pairs."): lambda: (
        jadam.partition([(True, SGD)], {"dense": "a"})
    ),
    # labels
    "partition: transformations by label need param_labels, a tree of labels or a function.": lambda: jadam.partition(
        {"a": SGD}
    ),
    "partition: param_labels is 'a'; give a tree of labels, or a function of the parameters.": lambda: jadam.partition(
        {"a": SGD}, "a"
    ),
    "partition: the label at the root is 3, but the transformations are for 'a'.": lambda: jadam.partition({"a": SGD}, 3),
    "partition: the label at dense/bias is 'b', but the transformations are for 'a'.": lambda: jadam.partition(
        {"a": SGD}, {"dense": {"kernel": "a", "bias": "b"}}
    ),
    ("partition: the label at dense is Array([1., 1., 1.], dtype=float32), but the transformations are for 'a'."): lambda: (
        jadam.partition({"a": SGD}, {"dense": ONES})
    ),
    (
        "partition: the transformation of group 'a' is 0.1, which is not a transformation; give one of "
        "jadam's, or an (init, update) pair."
    ): lambda: jadam.partition({"a": 0.1}, {"dense": "a"}),
    "partition: two groups are called '1'; give each a name of its own.": lambda: jadam.partition(
        {1: SGD, "1": LAST}, {"dense": 1}
    ),
    ("partition.init: param_labels does not fit the parameters: at dense it has a list, the parameters have a dict."): lambda: (
        jadam.partition({"a": SGD}, {"dense": ["a"]}).init(PARAMS)
    ),
    "partition.init: param_labels does not fit the parameters: dense is missing.": lambda: jadam.partition(
        {"a": SGD}, {"norm": "a"}
    ).init(PARAMS),
    "partition.init: the label at dense/bias is 'c', but the transformations are for 'a'.": lambda: jadam.partition(
        {"a": SGD}, by_leaf(lambda x: "c")
    ).init(PARAMS),
    (
        "partition.init: param_labels is traced at dense/bias; it may depend on structure, paths, shapes and dtypes "
        "of the parameters. For one that depends on values, compute a tree first, outside of jit, and pass that."
    ): lambda: jadam.partition({"a": SGD}, by_leaf(lambda x: x.sum())).init(PARAMS),
    (
        "partition.update: param_labels reads the values of the parameters; it may depend on structure, "
        "paths, shapes and dtypes of the parameters. For one that depends on values, compute a tree first, "
        "outside of jit, and pass that."
    ): lambda: traced(jadam.partition({"a": SGD}, by_leaf(lambda x: "a" if x.sum() > 0 else "b"))),
    ("partition.init: param_labels does not fit the parameters: at dense it has None, the parameters have a dict."): lambda: (
        jadam.partition({"a": SGD}, lambda params: {"dense": None}).init(PARAMS)
    ),
}
