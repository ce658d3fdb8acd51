"""What all tests share: hypothesis without deadlines, and workers that stay within the system's limits."""

import contextlib
import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["stub_run", "fake_bucket"]

# Tracing a program makes hundreds of thousands of objects that stay. Python's collector would walk them again
# and again.
gc.set_threshold(100_000, 50, 1000)

settings.register_profile("memjax", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("memjax")

# Every compiled program holds some memory mappings, and Linux allows a process 65,530 of them
# (vm.max_map_count). Beyond that the compiler dies of a segmentation fault.
MAPPINGS = 15_000
# Compiled programs and what the allocator keeps of their compilation; two workers fit a machine of 8 GB.
RESIDENT_BYTES = 1_600_000_000
MOST_BYTES = 2_400_000_000  # beyond this they are dropped within a file too, though it may need them again

# Files that take longest begin first, so that no worker is left alone with one of them at the end.
LONGEST = (
    *(
        "test_sharded.py",
        "test_mesh.py",
        "test_hosts.py",
        "test_resume.py",
        "test_offline.py",
        "test_plug_in.py",
        "test_memory_contract.py",
    ),
    *("test_reframe.py", "test_nearest.py", "test_adamemento.py", "test_kernels.py", "test_sebulba.py"),
    *("test_checkpoint.py", "test_eviction.py", "test_train.py", "test_collect_command.py"),
    *("test_examples.py", "test_faults.py", "test_benchmarks_run.py", "test_llm_loop.py", "test_gate.py"),
    *("test_branch_and_bound.py", "test_end_to_end.py", "test_decision_transformer.py", "test_wheel.py"),
    *("test_remember.py", "test_reframe_toy.py", "test_campaign.py", "test_gymnax_adapter.py"),
    *("test_memrl_switches.py", "test_memrl.py", "test_read.py", "test_novelty.py", "test_autoencoder.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by file, see LONGEST."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between two files, or two tests of one, drops the compiled programs of a process with too many."""
    if nextitem is None:  # the process is at its end
        return
    jax, last = sys.modules.get("jax"), nextitem.path != item.path
    full = _resident_bytes() > (RESIDENT_BYTES if last else MOST_BYTES) or (last and _mappings() > MAPPINGS)
    if jax is not None and full:
        jax.clear_caches()
        gc.collect()
        _give_back()


def _mappings() -> int:
    try:
        with open("/proc/self/maps", "rb") as lines:
            return sum(1 for _ in lines)
    except OSError:  # not Linux
        return 0


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0


def _give_back() -> None:
    """Asks the allocator to return to the system what is free; glibc alone knows how."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def on_eight_devices(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Runs the tests with a mark of a file beside the test's own, in a process with 8 simulated devices."""

    def run(name: str, mark: str) -> None:
        cases = str(request.path.with_name(name))
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
        plugins = ["--disable-plugin-autoload", "-p", "hypothesispytest"]  # their import takes a second
        command = [sys.executable, "-m", "pytest", cases, "-m", mark, *plugins, "-x", "--tb=short"]
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout[-6000:]

    return run
