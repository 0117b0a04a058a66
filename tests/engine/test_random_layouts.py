"""A sample of random layouts; `python tests/layouts.py` checks 500."""

import pytest
from jax.sharding import AxisType, PartitionSpec
from layouts import SHAPES, Layout, check, drawn


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow) for seed in range(10)])
def test_a_layout(seed):
    check(drawn(seed))


def test_a_wrong_place_is_found(monkeypatch):
    """The control: without a word to XLA about places, parameters do not come back to theirs."""
    specs = tuple((name, PartitionSpec()) for name in SHAPES)
    layout = Layout("lion", (("x", 8),), AxisType.Auto, specs, None, None, False, "x", None, "step")
    check(layout)
    monkeypatch.setattr("jadam._engine.sharding_group.in_a_group", lambda x, like: x)
    with pytest.raises(AssertionError, match="came back at"):
        check(layout)
