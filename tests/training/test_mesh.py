"""Runs on several devices: `mesh_cases.py`, in a process that has 8 simulated ones."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("speed", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_several_devices_compute_what_one_does(speed, request):
    cases = request.path.with_name("mesh_cases.py")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", str(cases), "-m", speed, "-p", "no:xdist", "-x", "--tb=short"]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
