"""What all tests share: hypothesis without deadlines, and workers that stay within the system's limits."""

import gc
import sys

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["stub_run"]

settings.register_profile("memjax", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("memjax")

# Every compiled program holds some memory mappings, and Linux allows a process 65,530 of them
# (vm.max_map_count). Beyond that the compiler dies of a segmentation fault.
MAPPINGS = 15_000


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between two files, drops the compiled programs of a process that holds too many."""
    jax, last = sys.modules.get("jax"), nextitem is None or nextitem.path != item.path
    if jax is not None and last and _mappings() > MAPPINGS:
        jax.clear_caches()
        gc.collect()


def _mappings() -> int:
    try:
        with open("/proc/self/maps", "rb") as lines:
            return sum(1 for _ in lines)
    except OSError:  # not Linux
        return 0
