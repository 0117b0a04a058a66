"""Trains on four devices, placed in three ways, by one process, by two and by four; saves by one number, resumes by another.

    python examples/pod.py                    # needs `pip install orbax-checkpoint`; a minute

A pod is many hosts, each a process with some devices, and one program runs on all of them. Here the devices are four that XLA
makes of a CPU, shared by 1, 2 or 4 processes, which talk over the loopback interface (jax.distributed, gloo). What changes from
one layout to another is two lines, in `placed`:

    data parallel     parameters and state whole on every device
    ZeRO-1            parameters whole, the state spread over the devices
    fully sharded     both spread

Each number of processes trains from the beginning and saves half-way; then it resumes from what the one before it saved. It
prints the losses, which differ by rounding alone: sums are added up in another order. The figure shows which device has which
rows of which array.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

DEVICES, BATCH, WIDTH = 4, 64, 128
LAYOUTS = ("data parallel", "ZeRO-1", "fully sharded")
PROCESSES = (1, 2, 4)


def worker(options):
    """One process of a run: prints, if it is the first, the losses of each layout and where its arrays are."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES // options.processes}"
    import jax
    import jax.numpy as jnp
    import numpy as np
    import orbax.checkpoint as ocp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import jadam

    jax.config.update("jax_platforms", "cpu")
    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{options.port}", options.processes, options.index)
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    whole, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(jadam.cosine_decay_schedule(3e-2, options.steps)))

    def there(value, sharding):
        """A global array; each process makes the parts of its own devices."""
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    def placed(layout):
        """Parameters and state where they belong."""
        rng = np.random.default_rng(0)
        shapes = {"into": (16, WIDTH), "bias": (WIDTH,), "out": (WIDTH, 4)}
        sharding = spread if layout == "fully sharded" else whole
        params = {name: there(rng.normal(0, 0.25, s).astype(np.float32), sharding) for name, s in shapes.items()}
        where = jadam.state_shardings(tx, params, data="data" if layout == "ZeRO-1" else None)
        return params, jax.jit(tx.init, out_shardings=where)(params)

    def batch(number):
        rng = np.random.default_rng(number)
        x = rng.standard_normal((BATCH, 16)).astype(np.float32)
        y = np.sin(x @ np.linspace(-1, 1, 64).reshape(16, 4)).astype(np.float32)
        return there(x, spread), there(y, spread)

    def loss_fn(params, x, y):
        return jnp.mean((jnp.tanh(x @ params["into"] + params["bias"]) @ params["out"] - y) ** 2)

    @jax.jit
    def step(params, state, x, y):
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        return *tx.step(grads, state, params), loss

    def train(params, state, first, last):
        losses = []
        for number in range(first, last):
            params, state, loss = step(params, state, *batch(number))
            losses.append(float(loss))
        return params, state, losses

    def parts(x):
        """Which rows of an array each device has, from its first index to its last."""
        rows = [(d.id, *index[0].indices(x.shape[0])[:2]) for d, index in x.sharding.devices_indices_map(x.shape).items()]
        return [x.shape[0], [(first, last) for _, first, last in sorted(rows)]]

    half, found, saved = options.steps // 2, {}, {}
    for layout in LAYOUTS:
        params, state = placed(layout)
        arrays = {"parameter": params["out"], "moment": state.slots["adam"]["mu"]["out"]}
        device = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state.slots))
        params, state, losses = train(params, state, 0, half)
        saved[layout] = {"params": params, "state": state}
        losses += train(params, state, half, options.steps)[2]
        found[layout] = {"losses": losses, "bytes": device, "parts": {name: parts(x) for name, x in arrays.items()}}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(options.folder) / str(options.processes), saved)
        checkpointer.wait_until_finished()
        # What another number of processes saved has the same shapes, and goes where this run has its arrays.
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), saved)
        restored = checkpointer.restore(Path(options.folder) / str(options.before), like)
    for layout, of_layout in found.items():
        resumed = train(restored[layout]["params"], restored[layout]["state"], half, options.steps)[2]
        of_layout["resumed"] = of_layout["losses"][:half] + resumed
    if options.index == 0:
        print(json.dumps(found))


def run(processes, before, steps, folder):
    """What the processes of one run found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["--steps", steps, "--processes", processes, "--before", before, "--folder", folder, "--port", port]
    commands = [[sys.executable, __file__, "--worker", *map(str, common), "--index", str(n)] for n in range(processes)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for command in commands]
    output = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of {processes} failed")
    return json.loads(output[0].splitlines()[-1])


def draw(found, path):
    """Which device has which rows of a parameter and of its first moment, in each layout."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    figure, axes = plt.subplots(len(LAYOUTS), 1, figsize=(4.5, 4.2), layout="constrained", sharex=True)
    colours = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
    for axis, (layout, of_layout) in zip(axes, found.items(), strict=True):
        for line, (name, (length, parts)) in enumerate(of_layout["parts"].items()):
            for device, (first, last) in enumerate(parts):
                left, low = device * 5 + 2.2 * line, 1 - last / length
                axis.add_patch(Rectangle((left, 0), 1.8, 1, fill=False, edgecolor="#999999", linestyle=":"))
                axis.add_patch(Rectangle((left, low), 1.8, (last - first) / length, color=colours[device]))
                axis.text(left + 0.9, -0.06, name, ha="center", va="top", fontsize=6.5)
        axis.set_title(f"{layout}: {of_layout['bytes']:,} bytes of state on each device", fontsize=8.5)
        axis.set(xlim=(-0.5, 5 * DEVICES - 0.5), ylim=(-0.3, 1.05))
        axis.axis("off")
    for device in range(DEVICES):
        axes[-1].text(device * 5 + 2, -0.5, f"device {device}", ha="center", va="top", fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments=None):
    """Runs all numbers of processes; returns what each found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--figure", default="figures/pod.png")
    parser.add_argument("--folder", help="for checkpoints; by default one that is removed")
    for name in ("processes", "before", "index", "port"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        return worker(options)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).resolve()
        for number, processes in enumerate(tqdm(PROCESSES, unit="run", leave=False)):
            before = PROCESSES[max(number - 1, 0)]  # the first resumes from itself
            found[processes] = run(processes, before, options.steps, folder)
    for layout in LAYOUTS:
        print(f"{layout}: {found[1][layout]['bytes']:,} bytes of state on each device")
        for processes, of_run in found.items():
            first, last, resumed = of_run[layout]["losses"][0], of_run[layout]["losses"][-1], of_run[layout]["resumed"][-1]
            print(f"  processes {processes}: loss from {first:.6f} to {last:.6f}, resumed to {resumed:.6f}")
    draw(found[1], options.figure)
    return found


if __name__ == "__main__":
    main()
