"""Hostile inputs through the command line: bad configs, bad datasets, and a key that must not show."""

import contextlib
import io
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from experiments.fault_tests import from_tests
from memjax.cli import main
from memjax.config_file import load_config

CANARY = "sk-canary-4f1d9b72c8e6a035"
SOURCES = ("four_rooms", "reframe:hopper", "atari", "mujoco:Hopper", "language:humaneval+ngrams", "classic")
_WRONG: dict[type, tuple[str, ...]] = {
    bool: ("2", "maybe", "-1"),
    int: ("x", "nan", "1.5", "-7", "10**400", "99999999999999999999999", "[1]"),
    float: ("x", "nan", "inf", "1e999", "[0.5]", "{}"),
}


def bad_configs(number: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(config, field, text) of fields whose value cannot be right, or that no config has."""
    draw = random.Random(seed)
    fields = {source: list(_leaves(load_config(source).to_dict())) for source in SOURCES}
    for i in range(number):
        source = SOURCES[i % len(SOURCES)]
        declared = [item for item in fields[source] if not item[0].startswith("env.options.")]
        name, value = draw.choice([item for item in declared if type(item[1]) in _WRONG])
        if draw.random() < 0.25:
            cut = draw.randrange(1, len(name.rpartition(".")[2]) + 1)
            yield source, name[:-cut] + "q" + name[-cut:], "1"
        else:
            yield source, name, draw.choice(_WRONG[type(value)])


def try_configs(number: int, seed: int, begin: int = 0) -> dict[str, Any]:
    """Gives the command configs that cannot be right. -> counts, and those that it did not refuse properly"""
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for i, (source, field, text) in enumerate(bad_configs(number, seed)):
            if i < begin:
                continue
            command = "remember" if source.startswith("language") else "train"
            words = [command, f"--config={source}", f"--workdir={folder}/run", f"--config.{field}={text}"]
            with mock.patch("memjax.training.train.train", return_value=0):
                code, out, err = call(words)
            if not refused(code, out, err) or Path(folder, "run").exists():
                faults.append(f"{source} {field}={text}: exit code {code}, {err[-200:]!r}")
    return {"trials": number - begin, "faults": faults}


def try_datasets(begin: int = 0, end: int | None = None) -> dict[str, Any]:
    """Gives the command every damaged or hostile dataset of the tests. -> counts, and what went wrong"""
    case, faults = from_tests("data/test_bad_datasets"), []
    names = list(case.FILES)[begin:end]
    for name in names:
        make, _ = case.FILES[name]
        with tempfile.TemporaryDirectory() as folder:
            path, workdir = Path(folder, "data.hdf5"), Path(folder, "run")
            make(path) if callable(make) else case.write_hdf5(path, make)
            before = sorted(Path(folder).rglob("*"))
            words = ["train", "--config=reframe:bc+smoke", f"--workdir={workdir}", "--no-compilation-cache"]
            code, out, err = call([*words, f"--config.data.path={path}"])
            if not refused(code, out, err) or sorted(Path(folder).rglob("*")) != before:
                faults.append(f"{name}: exit code {code}, {err[-200:]!r}")
    return {"trials": len(names), "faults": faults}


def try_canary() -> dict[str, Any]:
    """A language run whose endpoint repeats the key in replies and errors. -> where the key was found"""
    endpoint, case = from_tests("llm/fake_endpoint"), from_tests("commands/test_remember")
    asked = 0

    def answer(body: dict) -> Any:
        nonlocal asked
        asked += 1
        if asked % 5 == 2:
            return endpoint.error(400, f"bad key {CANARY}", f"authorization: Bearer {CANARY}")
        if asked % 5 == 4:
            return endpoint.Answer(endpoint.chat_answer(f"```python\n# {CANARY}\n{os.sep}\n```"))
        return case.answer(body)

    with tempfile.TemporaryDirectory() as name, endpoint.serve(answer) as (url, requests):
        folder = Path(name)
        case.write_tasks(folder / "tasks")
        words = case.words(folder, url, "run", chat__endpoint__key_env="MEMJAX_CANARY_KEY")
        with mock.patch.dict(os.environ, {"MEMJAX_CANARY_KEY": CANARY}):
            code, out, err = call(words)
        sent = sum(CANARY in str(headers) for _, headers, _ in requests)
        files = [p for p in folder.rglob("*") if p.is_file()]
        faults = [str(p.relative_to(folder)) for p in files if CANARY.encode() in p.read_bytes()]
        faults += [stream for stream, text in (("stdout", out), ("stderr", err)) if CANARY in text]
    if not sent:
        faults.append(f"the key was never sent, so nothing was tried: exit code {code}, {err[-200:]!r}")
    return {"trials": len(files) + 2, "requests": len(requests), "faults": faults}


def call(words: list[str]) -> tuple[int | str, str, str]:
    """Exit code, standard output and standard error of a command of memjax in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: int | str
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    return code, out.getvalue(), err.getvalue()


def refused(code: int | str, out: str, err: str) -> bool:
    """Whether a mistake ended as it should: exit code 2, and one line on standard error alone."""
    return code == 2 and not out and err.startswith("memjax: error: ") and err.count("\n") == 1


def _leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
