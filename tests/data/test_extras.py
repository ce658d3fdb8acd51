"""What the package does where the optional packages for data are not installed."""

import subprocess
import sys
from pathlib import Path

import memjax.data
from memjax import cli

MODULES = [f"memjax.data.{path.stem}" for path in sorted(Path(memjax.data.__file__).parent.glob("[a-z]*.py"))]
PROGRAM = """
import importlib, sys
sys.modules["h5py"] = sys.modules["minari"] = sys.modules["envpool"] = None
for name in sys.argv[2:]:
    importlib.import_module(name)
from memjax import cli
from memjax.data.loading import load
try:
    load(sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_all_of_it_imports_and_a_file_names_the_command(tmp_path):
    path = tmp_path / "d.hdf5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    run = [sys.executable, "-c", PROGRAM, str(path), *MODULES]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert len(MODULES) > 8
    assert out.startswith("ConfigError dataset: expected h5py, from: pip install 'memjax[data]', got ")


def test_collecting_without_h5py_is_one_line_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "h5py", None)  # as if it were not installed
    words = ["collect", "--env", "envpool/Hopper-v4", "--policy", "random", "--episodes", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "d.hdf5")]) == 2
    error = capsys.readouterr().err
    assert "pip install 'memjax[data]'" in error
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())
