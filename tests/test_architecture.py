"""The plan of the house: imports go down only, files are small, and everything is where one looks for it."""

import ast
from pathlib import Path

import jadam

ROOT = Path(jadam.__file__).parent
LAYERS = [
    {"_neutral", "_elsewhere"},
    {"_lazy"},
    {"_arguments"},
    {"_errors"},
    {"_annotations"},
    {"_tree", "_dtypes", "_derivatives", "_forward_only", "_schedules", "_shards"},
    {"_squares"},
    {"_tables"},
    {"_rows", "_context", "_decay", "_axes", "_layouts"},
    {"_by_leaf", "_masks", "_matrices", "_norm", "_state", "_storage", "_types", "_averages", "_positions"},
    {"_hyper"},
    {"_rule"},
    {"_wrapper", "_after_step"},
    {"_scope"},
    {"_recipe"},
    {"_frozen"},
    {"_engine"},
    {"_hyperparams", "_apply_updates", "_metrics"},
    {"_transformation"},
    {"_chain"},
    {"_groups", "_learning_rate", "_reduce_on_plateau", "_clipping", "_adaptive_clipping", "_ema", "_wrappers"},
    {"_multipliers", "_update_ratio"},
    {"_weight_decay", "_precision", "_sharding", "_folding", "_describe", "_cautious", "_schedule_free"},
    {"_hyperball", "_projections", "_qk_clip"},
    {"_checkpoint"},
    {"_authoring", "_assembly"},
    {"_optimizers"},
    {"optax"},
    {"_public"},
    {"__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    return {path: path.relative_to(ROOT).parts[0].removesuffix(".py") for path in sorted(ROOT.rglob("*.py"))}


def imports(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])]
        if isinstance(node, ast.ImportFrom) and node.module == "jadam":
            names = [f"jadam.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name.split(".")[1] for name in names if name and name.startswith("jadam.")}
    return found


def test_imports_go_down_only():
    assert set(modules().values()) == set(LEVEL), "a new file belongs in LAYERS of tests/test_architecture.py"
    for path, own in modules().items():
        for other in imports(path):
            assert LEVEL[other] <= LEVEL[own], f"{path.name} imports {other}, which is above it"


def test_within_a_layer_there_is_no_cycle():
    graph = {own: set() for own in modules().values()}
    for path, own in modules().items():
        graph[own] |= imports(path) - {own}
    done: list[str] = []
    while len(done) < len(graph):
        ready = [name for name in graph if name not in done and graph[name] <= set(done)]
        assert ready, f"a cycle among {set(graph) - set(done)}"
        done += ready


def test_only_jax_is_imported():
    allowed = {"jax", "numpy", "jadam"}  # numpy comes with jax
    import sys

    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                root = name.split(".")[0]
                # The door for whole projects, and `as_optax`, which imports it when it is called.
                optional = root == "optax" and (path.parent == ROOT / "optax" or path.name == "_transformation.py")
                assert optional or root in allowed or root in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_files_are_small():
    lengths = sorted(len(path.read_text().splitlines()) for path in modules())
    assert lengths[len(lengths) // 2] <= 110
    assert lengths[-1] <= 300


def test_an_optimizer_is_a_short_file():
    lengths = sorted(len(path.read_text().splitlines()) for path in (ROOT / "_optimizers").glob("[a-z]*.py"))
    assert len(lengths) > 25
    assert lengths[len(lengths) // 2] <= 80


def test_an_optimizer_takes_its_words_from_few_places():
    for path in (ROOT / "_optimizers").glob("[a-z]*.py"):
        imported = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        assert sum("jadam" in str(node.module) for node in imported) <= 3, path.name


def test_no_file_is_a_drawer():
    assert not {"utils", "misc", "base", "common", "helpers", "contrib"} & {p.stem.strip("_") for p in modules()}


def test_rules_know_nothing_of_trees_and_jit():
    """An optimizer's file is the algorithm: jit, pytrees, dtypes and sharding are the engine's."""
    for path in (ROOT / "_optimizers").glob("*.py"):
        text = path.read_text()
        assert not [word for word in ("jax.tree", "jax.jit", "astype", "sharding", "tree_map") if word in text], path.name
