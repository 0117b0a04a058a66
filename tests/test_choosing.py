"""The starting rates of docs/choosing.md: every optimizer has one, and it is the rate of the code that its row names."""

import inspect
import re

import pytest
from golden import CASES
from support import OPTIMIZERS, ROOT

PAGE = (ROOT / "docs" / "choosing.md").read_text()
SECTION = PAGE.split("## A starting rate for each")[1].split("\n## ")[0]
ROWS = {
    cells[0].strip("` "): cells[1:]
    for line in SECTION.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def recorded(name):
    """The learning rates with which the authors' code was run for `tests/data/`."""
    return {case["kwargs"].get("learning_rate") for case in CASES.values() if case["factory"] == name}


def test_every_optimizer_has_a_row():
    assert set(ROWS) == set(OPTIMIZERS), "add a row to docs/choosing.md"


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_starting_rate_is_that_of_its_source(name):
    rate, _, source = ROWS[name]
    default = inspect.signature(OPTIMIZERS[name]).parameters["learning_rate"].default
    assert default in (inspect.Parameter.empty, float(rate)), f"jadam.{name} has learning_rate={default}"
    assert source
    if re.search("default", source) and recorded(name):
        assert float(rate) in recorded(name), f"{name}: {rate} is not of the recorded {recorded(name)}"


def test_most_rates_are_compared():
    """Without the records, or with a source that is not one, the comparison above would see nothing."""
    compared = [name for name, (_, _, source) in ROWS.items() if "default" in source and recorded(name)]
    assert len(compared) >= 20
    assert float(ROWS["lion"][0]) != 1e-3  # and 1e-3 is not accepted of all
    assert 1e-3 not in recorded("lion")
