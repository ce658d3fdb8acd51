"""Runs on several devices: `mesh_cases.py`, in a process that has 8 simulated ones."""

import pytest


@pytest.mark.parametrize("speed", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_several_devices_compute_what_one_does(speed, on_eight_devices):
    on_eight_devices("mesh_cases.py", speed)
