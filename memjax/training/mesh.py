"""Places a train state on several devices: by seed where the number of seeds allows it, else by environment.

Both are `jit` with shardings: independent seeds need no collective, and with the environments split XLA
adds the reductions of the gradient itself.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memjax.types import ConfigError, PyTree


def make_mesh(num_seeds: int, num_envs: int, devices: list | None = None) -> Mesh | None:
    """Makes a mesh with one axis over all devices.

    Args:
      num_seeds: split over the devices where it is a multiple of their number ("seed" is the axis).
      num_envs: environments of a seed, split over the devices where there is one seed ("env" is the axis).
      devices: None: all of JAX's.

    Returns:
      The mesh; None where there is one device.

    Raises:
      ConfigError: neither can be split evenly.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) == 1:
        return None
    if num_seeds % len(devices) == 0:
        return Mesh(np.array(devices), ("seed",))
    if num_seeds == 1 and num_envs % len(devices) == 0:
        return Mesh(np.array(devices), ("env",))
    expected = f"a multiple of the {len(devices)} devices, or 1 with env.num_envs such a multiple"
    raise ConfigError("num_seeds", expected, f"{num_seeds} with env.num_envs {num_envs}")


def shardings(mesh: Mesh, state: PyTree, num_envs: int) -> PyTree:
    """A NamedSharding for every leaf of a TrainState (arrays or their shapes)."""

    def place(path, leaf) -> NamedSharding:
        if "seed" in mesh.axis_names:
            axes = ("seed",) if leaf.ndim else ()
        else:
            batched = path[0].name == "actor" and leaf.ndim >= 2 and leaf.shape[1] == num_envs
            axes = (None, "env") if batched else ()
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(place, state)
