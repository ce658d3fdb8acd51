"""Places a run on several devices: by seed where the number of seeds allows it, else by rows of a batch.

Both are `jit` with shardings. Independent seeds need no collective. Else each device has the whole train
state, but only its share of the environments and of every batch; XLA adds the reductions of gradients and of
statistics. The devices may be those of several processes (memjax.training.hosts).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memjax.memory import Memory, MemoryState, make_sharded_memory
from memjax.memory import shardings as memory_shardings
from memjax.types import ConfigError, PyTree

SEED, ROWS = "seed", "rows"  # the axis of a mesh


def make_mesh(
    num_seeds: int, rows: int, field: str = "env.num_envs", devices: list | None = None
) -> Mesh | None:
    """Makes a mesh with one axis over all devices.

    Args:
      num_seeds: split over the devices where it is a multiple of their number (`SEED` is the axis).
      rows: of a batch of one seed, split over the devices where there is one seed (`ROWS` is the axis).
      field: of the config that says how many rows there are.
      devices: None: all of JAX's, of all processes.

    Returns:
      The mesh; None where there is one device.

    Raises:
      ConfigError: neither can be split evenly.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) == 1:
        return None
    if num_seeds % len(devices) == 0:
        return Mesh(np.array(devices), (SEED,))
    if num_seeds == 1 and rows % len(devices) == 0:
        return Mesh(np.array(devices), (ROWS,))
    expected = f"a multiple of the {len(devices)} devices, or 1 with {field} such a multiple"
    raise ConfigError("num_seeds", expected, f"{num_seeds} with {field} {rows}")


def memory_maker(mesh: Mesh | None, memory: str) -> Callable[..., Memory] | None:
    """What makes an agent's memories, as `run.memory` says; None: each device has the whole of them.

    Raises ConfigError where seeds are split, each of which has memories of its own.
    """
    if memory == "replicated" or mesh is None:
        return None
    if ROWS not in mesh.axis_names:
        expected = f"'replicated' with seeds on {mesh.size} devices, which split the memories by seed"
        raise ConfigError("run.memory", expected, f"'{memory}'")
    return partial(make_sharded_memory, mesh, ROWS)


def shardings(mesh: Mesh, state: PyTree, num_envs: int, *, sharded: bool = False) -> PyTree:
    """A NamedSharding for every leaf of a train state (arrays or their shapes).

    Args:
      mesh: of `make_mesh`.
      state: all but scalars have a leading axis [R] of seeds; below `actor`, environments are the next one.
      num_envs: of a seed.
      sharded: whether the slots of its memories are split.
    """

    def place(path, leaf) -> NamedSharding:
        if SEED in mesh.axis_names:
            axes = (SEED,) if leaf.ndim and path[0].name != "data" else ()
        else:
            batched = path[0].name == "actor" and leaf.ndim >= 2 and leaf.shape[1] == num_envs
            axes = (None, ROWS) if batched else ()
        return NamedSharding(mesh, PartitionSpec(*axes))

    def place_memory(path, part) -> Any:
        if isinstance(part, MemoryState):
            return memory_shardings(mesh, ROWS, part)
        return place(path, part)

    if not sharded:
        return jax.tree_util.tree_map_with_path(place, state)
    is_memory = lambda part: isinstance(part, MemoryState)  # noqa: E731
    return jax.tree_util.tree_map_with_path(place_memory, state, is_leaf=is_memory)


def whole(mesh: Mesh | None) -> NamedSharding | None:
    """Everything on every device, as a process must have it to read it; None where there is one device."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh | None, axis: int = 0) -> NamedSharding | None:
    """Arrays split along one of their axes; None where there is one device, or where seeds are split."""
    if mesh is None or ROWS not in mesh.axis_names:
        return None
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, ROWS))


def place(tree: PyTree, sharding: Any) -> PyTree:
    """Arrays, alike in all processes, on the devices of all; None: on the first device of this one.

    They are committed to it, as those of a checkpoint are: for others JAX compiles a program anew.
    """
    if sharding is None:
        return jax.device_put(tree, jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i]), tree
    )


def placed(shapes: PyTree, shardings: PyTree | None) -> PyTree:
    """Shapes with their placement."""
    if shardings is None:
        return shapes
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def one_copy(tree: PyTree) -> PyTree:
    """Of arrays that are whole on every device, the copy on this process's first one."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
