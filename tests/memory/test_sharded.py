"""The sharded memory on 8 simulated devices: `sharded_cases.py`, in a process that has them."""

import jax
import numpy as np
import pytest

from memjax.memory import make_sharded_memory
from memjax.types import ConfigError


@pytest.mark.parametrize("speed", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_shards_are_one_memory(speed, on_eight_devices):
    on_eight_devices("sharded_cases.py", speed)


def test_a_search_of_ones_own_is_refused_in_one_line():
    mesh = jax.make_mesh((1,), ("slots",), axis_types=(jax.sharding.AxisType.Auto,))
    memory = make_sharded_memory(mesh, "slots", 8, 4, np.zeros(2, np.float32), evict="fifo", k=2)
    with pytest.raises(ConfigError, match=r"^find: expected none: .* got a function$"):
        memory.retrieve(None, None, find=lambda *_, **__: None)
