"""The sharded memory on 8 simulated devices: `sharded_cases.py`, in a process that has them."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from memjax.memory import make_sharded_memory
from memjax.types import ConfigError


@pytest.mark.parametrize("speed", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_shards_are_one_memory(speed, request):
    cases = request.path.with_name("sharded_cases.py")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", str(cases), "-m", speed, "-p", "no:xdist", "-x", "--tb=short"]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-6000:]


def test_a_search_of_ones_own_is_refused_in_one_line():
    mesh = jax.make_mesh((1,), ("slots",), axis_types=(jax.sharding.AxisType.Auto,))
    memory = make_sharded_memory(mesh, "slots", 8, 4, np.zeros(2, np.float32), evict="fifo", k=2)
    with pytest.raises(ConfigError, match=r"^find: expected none: .* got a function$"):
        memory.retrieve(None, None, find=lambda *_, **__: None)
