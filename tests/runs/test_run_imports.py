"""Code of the user's own: imported by name or path, recorded in the run, and imported again."""

import hashlib
import json
import sys

import pytest

from memjax.runs.imports import (
    IMPORTS_FILE,
    import_all,
    import_for_run,
    imported_modules,
    read_imports,
    write_imports,
)
from memjax.types import ConfigError


@pytest.fixture
def lab(tmp_path):
    """A file that counts how often it was imported, in a list that outlives it."""
    sys.modules["counted_imports"] = counter = type(sys)("counted_imports")
    counter.seen = []
    file = tmp_path / "lab.py"
    file.write_text("import counted_imports\ncounted_imports.seen.append(__name__)\n")
    yield file, counter.seen
    del sys.modules["counted_imports"]


def test_a_file_and_a_module_are_recorded_and_imported_again(lab, tmp_path, capsys):
    file, seen = lab
    run = tmp_path / "run"
    run.mkdir()
    found = import_for_run(run, [str(file), "json.tool"])
    assert found == ((str(file), hashlib.sha256(file.read_bytes()).hexdigest()), ("json.tool", None))
    write_imports(run, found)
    assert read_imports(run) == found
    assert capsys.readouterr().err == ""
    assert import_for_run(run, []) == found
    said = capsys.readouterr().err.splitlines()
    assert said == [f"memjax: importing {each.name}, as the run did" for each in found]
    assert len(seen) == 1  # a second import would register its parts twice
    assert {seen[0], "json.tool"} <= {module.__name__ for module in imported_modules()}


def test_a_changed_file_is_said(lab, tmp_path, capsys):
    file, _ = lab
    write_imports(tmp_path, import_for_run(tmp_path, [str(file)]))
    file.write_text(file.read_text() + "# changed\n")
    import_for_run(tmp_path / "elsewhere", [str(file)])
    assert "changed" not in capsys.readouterr().err
    write_imports(tmp_path, ())  # nothing new: what is recorded stays
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / IMPORTS_FILE).rename(run / IMPORTS_FILE)
    import_for_run(run, [])
    assert f"memjax: {file} has changed since the run imported it" in capsys.readouterr().err.splitlines()


def test_a_relative_path_and_the_home_folder(lab, tmp_path, monkeypatch):
    file, _ = lab
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert import_all(["lab.py"]) == import_all(["~/lab.py"]) == import_all([str(file)])


def test_a_run_does_not_bring_its_own_code(lab, tmp_path):
    file, seen = lab
    (tmp_path / IMPORTS_FILE).write_text(json.dumps([{"name": str(file), "sha256": "0"}]))
    with pytest.raises(ConfigError, match="outside of the run's own directory"):
        import_for_run(tmp_path, [])
    assert seen == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "raise SystemExit(0)",
            r"--import: expected a file that can be imported, got '.*' \(SystemExit: 0\)",
        ),
        ("1 / 0", r"\(ZeroDivisionError: division by zero\)"),
        ("def broken(:", r"\(SyntaxError"),
        ("from memjax.types import ConfigError\nraise ConfigError('x', 'y', 'z')", "^x: expected y, got z$"),
    ],
)
def test_a_file_that_fails_is_a_mistake_of_one_line(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    for _ in range(2):  # nothing of the first time is left
        with pytest.raises(ConfigError, match=message) as error:
            import_all([str(tmp_path / "bad.py")])
        assert "\n" not in str(error.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"--import: expected the path of a .py file"):
        import_all([str(tmp_path / "none.py")])
    with pytest.raises(ConfigError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        import_all(["no_such_module"])
    (tmp_path / IMPORTS_FILE).write_text('[{"name": "/no/such/lab.py", "sha256": "0"}]')
    with pytest.raises(ConfigError, match="name its new place with --import"):
        import_for_run(tmp_path, [])


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": 3, "sha256": null}]', "[" * 100_000])
def test_a_damaged_record_is_a_mistake(tmp_path, text):
    (tmp_path / IMPORTS_FILE).write_text(text)
    if text == "{}":
        assert read_imports(tmp_path) == ()
        return
    with pytest.raises(ConfigError, match="a list of imports"):
        read_imports(tmp_path)
