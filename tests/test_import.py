"""What `import jadam` runs, and what is imported when it is asked for. Times depend on the machine, modules do not."""

import json
import subprocess
import sys

from support import NAMESPACE

import jadam
from jadam import _public

BUILD = "jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3))"


def run(code):
    """What a new process prints as JSON."""
    return json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def added(code, before=""):
    """The modules that a new process imports while it runs `code`."""
    script = f"import json, sys\n{before}\nold = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - old)))"
    return set(run(script))


def test_import_runs_nothing_of_what_a_program_may_not_need():
    """It took 171 ms, and imported 178 modules: JAX's kernels among them, and 31 optimizers."""
    modules = added("import jadam")
    assert {name for name in modules if name.startswith("jadam")} == {"jadam", "jadam._elsewhere", "jadam._lazy"}
    assert {name.partition(".")[0] for name in modules} <= {"jadam", *sys.stdlib_module_names}


def test_an_optimizer_imports_what_it_is_made_of():
    """Half as many modules as when all were imported at once, and nothing of JAX's that JAX has not imported itself."""
    modules = added(f"import jadam; {BUILD}", "import jax, jax.numpy")
    assert {"jadam._optimizers.adam", "jadam._clipping", "jadam._engine.step"} < modules
    assert not {name for name in modules if name.startswith("jax.") or "pallas" in name}
    assert {name for name in modules if "._optimizers." in name} == {"jadam._optimizers.adam"}
    heavy = ("_checkpoint", "_describe", "_layouts", "_wrappers", "_engine.kernel", "_engine.sharding_group", "optax")
    assert not {name for name in modules if name.removeprefix("jadam.").startswith(heavy)}
    assert sum(name.startswith("jadam") for name in modules) <= 80


def test_each_name_is_what_the_list_imports():
    assert {name: value for name, value in vars(_public).items() if not name.startswith("_")} == NAMESPACE
    assert all(vars(jadam)[name] is value for name, value in NAMESPACE.items())  # it is asked for once


def test_a_first_use_inside_jit_leaves_no_tracer_behind():
    """A module that made an array when it is imported would keep that of the trace which asked for it."""
    code = f"""
import importlib, json, pkgutil, jax, jax.numpy as jnp
import jadam
names = [module.name for module in pkgutil.walk_packages(jadam.__path__, "jadam.") if not module.name.startswith("jadam.optax")]
found = []
def first(x):
    found.extend((name, value) for one in names for name, value in vars(importlib.import_module(one)).items())
    return x
jax.jit(first)(1.0)
kept = [name for name, value in found if isinstance(value, jax.Array)]
tx, params = {BUILD}, jnp.ones(3)
print(json.dumps([len(names), kept, jax.jit(tx.step)(params, tx.init(params), params)[0].tolist()]))
"""
    count, kept, params = run(code)
    assert count > 100
    assert kept == []
    assert all(abs(x - 0.99899) < 1e-6 for x in params)


def test_python_says_what_a_misspelt_name_may_have_meant():
    done = subprocess.run([sys.executable, "-c", "import jadam; jadam.adamx"], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'jadam' has no attribute 'adamx'. Did you mean: 'adam'?"
