"""Drawn transformations of drawn trees keep every law, and planted faults break one. `tests/bench/fuzz.py` draws more."""

import fuzzing
import pytest
from fuzzing import Example
from hypothesis import HealthCheck, given, settings

pytestmark = pytest.mark.filterwarnings("ignore:.*rounded to nearest")


@pytest.mark.parametrize("examples", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_laws_hold(examples):
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(fuzzing.examples)
    def laws_hold(example):
        fuzzing.check(example)

    laws_hold()


def test_everything_public_is_drawn():
    """Nothing that returns a transformation is left out; its arguments are drawn by their annotations."""
    assert len(fuzzing.FOUND) > 80
    assert set(fuzzing.SPECIAL) <= set(fuzzing.FOUND)
    for name in set(fuzzing.FOUND) - set(fuzzing.SPECIAL):
        fuzzing.right(name)  # a KeyError where an annotation is not known


CAUGHT = {
    "gradients are not bounded": Example("leaf((3,), 'float32')", "jadam.adam(0.1)", "finite"),
    "steps are 1.3 times too long": Example("leaf((3,), 'float32')", "jadam.sgd(0.1)", "step_is_update_and_apply"),
    "updates of vectors are float32": Example("leaf((3,), 'bfloat16')", "jadam.sgd(0.1)", ""),
}


@pytest.mark.parametrize("fault", fuzzing.FAULTS)
def test_planted_faults_are_found(fault):
    """Negative control. `tests/bench/fuzz.py --fault` finds each among its first 200 drawn examples."""
    assert fuzzing.check(CAUGHT[fault]) == ""
    with fuzzing.FAULTS[fault](), pytest.raises(AssertionError):
        fuzzing.check(CAUGHT[fault])
