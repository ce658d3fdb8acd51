"""A few trials of each part of the fault campaign (`python -m experiments.faults`); more of them are slow."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import language_case
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "experiments").is_dir():
    pytest.skip("no experiments beside the tests", allow_module_level=True)
pytest.importorskip("h5py", reason="an extra: pip install 'memjax[data]'")

from experiments import (  # noqa: E402
    fault_commands,
    fault_flips,
    fault_inputs,
    fault_kills,
    fault_probes,
    fault_soak,
    faults,
)
from experiments.fault_matrix import ROWS  # noqa: E402
from memjax.runs.workdir import read_json  # noqa: E402

# Readers that gave up on a damaged file leave coroutines unawaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def assert_kills(name, folder, modes, number):
    found = fault_kills.campaign(
        fault_kills.SYSTEMS[name], folder, modes, number, time.monotonic() + 3600, 0, fault_kills.Tally()
    )
    assert found.trials == number
    assert (found.unreadable, found.differences, found.wrong_code) == (0, 0, 0)


def test_kills_of_a_language_run(tmp_path):
    language_case.main(str(tmp_path / "whole"), 2, 0.0)  # in a process that has imported all that it needs
    assert_kills("memrl", tmp_path, ("saving",), 1)  # at any moment: tests/llm/run/test_llm_kill.py


@pytest.mark.slow
@pytest.mark.parametrize("name", fault_kills.SYSTEMS)
def test_many_kills(tmp_path, name):
    assert_kills(name, tmp_path, ("random", "saving"), 20)


@pytest.mark.slow
def test_signals_that_ask(tmp_path):
    assert_kills("adamemento", tmp_path, ("term", "int"), 8)


def assert_flips(folder, number):
    names = list(fault_flips.TARGETS)
    found = fault_flips.campaign(names, folder, number, time.monotonic() + 3600, 0, {})
    assert sum(sum(counts.values()) for counts in found.values()) == number
    assert [name for name in names if found[name]["silent"]] == []
    assert [name for name in names if not found[name]["found"]] == []


def test_flipped_bits_are_found(tmp_path):
    assert_flips(tmp_path, 90)


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_found(tmp_path):
    assert_flips(tmp_path, 1000)


def test_a_silent_flip_is_seen(tmp_path, monkeypatch):
    """A reader that checks nothing, as a control."""
    monkeypatch.setattr("memjax.runs.workdir.sealed", lambda values: "sha256")
    counts = fault_flips.campaign(["manifest.json"], tmp_path, 30, time.monotonic() + 600, 0, {})
    assert counts["manifest.json"]["silent"] > 5


@pytest.mark.parametrize("seed", [0, 1])
def test_bad_configs_are_refused_in_one_line(seed):
    assert fault_inputs.try_configs(60, seed)["faults"] == []


def test_a_right_config_is_not_refused(monkeypatch):
    right = [("four_rooms", "agent.gate.kappa", "0.25")]
    monkeypatch.setattr(fault_inputs, "bad_configs", lambda number, seed: iter(right))
    (fault,) = fault_inputs.try_configs(1, 0)["faults"]
    assert "exit code 0" in fault


def test_bad_datasets_are_refused_in_one_line():
    assert fault_inputs.try_datasets(end=10)["faults"] == []


def test_the_key_is_nowhere():
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    found = fault_inputs.try_canary()
    assert found["faults"] == []
    assert found["requests"] > 3


def test_each_launch_sees_an_earlier_clock_than_the_one_before(tmp_path):
    system = fault_kills.System(
        lambda inputs, workdir: [sys.executable, str(clock), "1"], lambda _: 0, lambda _: 0
    )
    clock = tmp_path / "clock.py"
    clock.write_text("import sys, time; print(time.time(), time.time_ns(), *sys.argv[1:])")
    late, seen = fault_commands.set_back(system, seed=0), []
    for _ in range(2):
        command = late.command(tmp_path, tmp_path / "run")
        seen.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    (now, _, word), (before, nanoseconds, _) = seen
    assert word == "1"
    assert abs(float(now) - time.time()) < 60
    assert 3600 - 60 < float(now) - float(before) < 72 * 3600
    assert abs(float(before) - 1e-9 * float(nanoseconds)) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sweep", "campaign"])
def test_a_killed_sweep_or_campaign_ends_like_one_that_was_not(tmp_path, kind):
    found = fault_commands.campaign(kind, tmp_path, 4, time.monotonic() + 3600, 0)
    assert (found["trials"], found["faults"]) == (4, [])


def test_what_grows_in_a_long_run_is_seen():
    def run(growth=0.0, handles=0, compiled=0):
        return [
            [
                fault_soak.Sample(
                    500 * (1 + growth * i), 9 + handles * i, 40 + compiled * i, 10 * i + j, i + 0.1 * j
                )
                for j in range(4)
            ]
            for i in range(5)
        ]

    flat = fault_soak.described(run())
    assert (flat["faults"], flat["memory"], flat["handles"]) == ([], [500.0, 500.0], [9, 9])
    for more in (run(growth=0.01), run(handles=1), run(compiled=1)):
        assert len(fault_soak.described(more)["faults"]) == 1


def test_an_environment_is_probed_for_episodes_that_repeat(monkeypatch):
    pytest.importorskip("envpool")
    assert fault_probes.probe("envpool/CartPole-v1") == {"repeats": True, "differ": True, "seeds": True}
    first = iter([0, 0, 1, 0, 0])
    monkeypatch.setattr(fault_probes, "play", lambda id, seed: [np.full((4, 2), next(first))])
    assert fault_probes.probe("any") == {"repeats": True, "differ": False, "seeds": True}
    assert fault_probes._in_child("envpool/Taxi-v3") == {"repeats": True, "differ": True, "seeds": True}
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert fault_probes._in_child("envpool/Taxi-v3") is None


def test_every_row_is_there_and_names_tests_that_exist():
    assert list(ROWS) == [f"R{i}" for i in range(1, 31)]
    for name, row in ROWS.items():
        assert row.tests or row.parts or row.gap, name
        for test in row.tests.split():
            path, _, function = test.partition("::")
            text = (ROOT / "tests" / path).read_text()
            assert not function or re.search(rf"^def {function}\(", text, re.M), test


def test_the_page_is_that_of_the_results():
    if not faults.RESULTS.exists():
        pytest.skip("no results yet")
    assert faults.PAGE.read_text() == faults.page(read_json(faults.RESULTS))


def test_a_campaign_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "results.json"
    for flips in ("6", "12"):
        assert faults.main(["--only", "R5", "--flips", flips, "--results", str(path)]) == 0
        assert read_json(path)["parts"]["flips"]["trials"] == int(flips)
    assert {"seed", "date", "load", "device", "versions", "python"} <= read_json(path).keys()
