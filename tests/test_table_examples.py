"""The examples that train tables run, learn, and draw their figures; and so does the benchmark of rows."""

import math

import matplotlib as mpl
import pytest
from support import load_script

mpl.use("agg")
pytestmark = pytest.mark.usefixtures("lenient")


def test_word_vectors_learn_both_ways(tmp_path, capsys):
    """Before the first step every product is 0, and the loss 6 log 2."""
    text, figure = tmp_path / "text.txt", tmp_path / "loss.png"
    text.write_text(" ".join(f"w{'abcdefghij'[n % 10]} of v{'abcdefghij'[n % 7]}" for n in range(3000)))
    found = load_script("examples/word_vectors.py").main(["--text", str(text), "--steps", "300", "--figure", str(figure)])
    assert list(found) == ["whole tables", "rows"]
    assert all(loss < 0.9 * 6 * math.log(2) for loss, _ in found.values())
    assert "near v" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_ratings_are_fitted_three_ways(tmp_path):
    """Better than the mean alone, whose error is above 1."""
    sizes = ["--users", "300", "--items", "100", "--ratings", "40000", "--steps", "400"]
    found = load_script("examples/ratings.py").main([*sizes, "--figure", str(tmp_path / "error.png")])
    assert list(found) == ["whole tables", "rows", "rows that catch up"]
    assert all(error < 0.8 for error, _ in found.values())
    assert (tmp_path / "error.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_benchmark_compares_before_it_measures(tmp_path):
    table = load_script("tests/bench/rows.py").main(["--quick", "--out", str(tmp_path / "rows.md")])
    assert (tmp_path / "rows.md").read_text().splitlines() == table
    assert sum(line.startswith("| 20,000 x 64") for line in table) == 3
