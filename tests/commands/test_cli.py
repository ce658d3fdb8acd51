import contextlib
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from memjax import __version__, cli
from memjax.commands import argument_types, evaluate
from memjax.commands.interrupts import ending_at_once
from memjax.commands.parser import without_traceback
from memjax.commands.remember import resolve_language
from memjax.config_file import load_config
from memjax.runs.checkpoint import CheckpointError, Checkpoints
from memjax.runs.signals import Diverged
from memjax.training import config as config_module


@pytest.fixture
def launched(monkeypatch, registries):
    """Replaces training by a recorder, and the registries by the stub's. -> what was launched"""
    calls = []

    def train(config, workdir, *, resume=True, imports=()):
        calls.append((config, workdir, resume))
        outcome = launched.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or 0

    launched = types.SimpleNamespace(calls=calls, outcome=None)
    monkeypatch.setattr("memjax.commands.train.use_compilation_cache", contextlib.nullcontext)
    monkeypatch.setitem(sys.modules, "memjax.training.train", types.SimpleNamespace(train=train))
    monkeypatch.setattr(config_module, "_agents", lambda: registries["agents"])
    monkeypatch.setattr(config_module, "_spec_of", lambda: registries["spec_of"])
    return launched


def test_train_resolves_overrides_and_launches(launched, config_file, tmp_path):
    argv = ["train", f"--config={config_file}:smoke", "--workdir", str(tmp_path / "w"), "--config.seed=7"]
    assert cli.main([*argv, "--config.agent.hidden", "8,8", "--no-compilation-cache"]) == 0
    ((config, workdir, resume),) = launched.calls
    assert (config.seed, config.agent.hidden, config.run.total_steps) == (7, (8, 8), 64)
    assert (workdir, resume) == (tmp_path / "w", True)


@pytest.mark.parametrize(
    ("outcome", "code", "line"),
    [
        (None, 0, ""),
        (143, 143, ""),
        (Diverged(64, "loss/policy", float("nan")), 3, "memjax: error: loss/policy is nan at step 64"),
        (CheckpointError("cannot write"), 1, "memjax: error: cannot write"),
        (
            OSError(28, "No space left on device"),
            1,
            "memjax: error: OSError: [Errno 28] No space left on device",
        ),
        (
            OSError(28, "No space left on device", "a/b"),
            1,
            "memjax: error: a/b: No space left on device",
        ),
        (MemoryError("Unable to allocate 1 TiB"), 1, "memjax: error: MemoryError: Unable to allocate 1 TiB"),
    ],
)
def test_exit_code_tells_how_it_ended(launched, config_file, tmp_path, capsys, outcome, code, line):
    launched.outcome = outcome
    argv = ["train", f"--config={config_file}", f"--workdir={tmp_path}", "--no-compilation-cache"]
    assert cli.main(argv) == code
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == (1 if line else 0)


def test_a_bug_shows_its_traceback(launched, config_file, tmp_path):
    launched.outcome = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train", f"--config={config_file}", f"--workdir={tmp_path}", "--no-compilation-cache"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--config.agent.kk=3"],
            "memjax: error: agent.kk: expected a known field (did you mean 'agent.k'?)",
        ),
        (["--config.agent.k=64"], "memjax: error: agent.k: expected int <= capacity (32), got 64"),
        (
            ["--config.agent.k"],
            "memjax: error: --config.agent.k: expected --config.agent.k=VALUE, got no value",
        ),
        (["--config.env.id=memjax/Stob"], "memjax: error: env.id: expected a known environment"),
        (["--config.seed=1", "--config.seed=x"], "memjax: error: seed: expected int, got 'x'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2_and_launches_nothing(
    launched, config_file, tmp_path, capsys, words, line
):
    assert cli.main(["train", f"--config={config_file}", f"--workdir={tmp_path / 'w'}", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not launched.calls
    assert not (tmp_path / "w").exists()


def test_debug_shows_the_traceback(launched, config_file, tmp_path):
    argv = ["train", f"--config={config_file}", f"--workdir={tmp_path}", "--config.seed=x", "--debug"]
    with pytest.raises(ValueError, match="seed"):
        cli.main(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["trian"],
        ["train"],
        ["train", "--config=x.py", "--workdir="],
        ["train", "--workdir=x"],
        ["train", "--config=x.py"],
        ["train", "--config=x.py", "--workdir=w", "--unknown=3"],
        ["train", "--conf=x.py", "--workdir=w"],
        ["evaluate", "--workdir=w", "--episodes=0"],
        ["evaluate", "--workdir=w", "--episodes=many"],
        ["report"],
        ["inspect"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("memjax: error: ")
    assert error.count("\n") == 1


INTERRUPTED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have set to be ignored
module = sys.argv[1]
class Finder:
    def find_spec(self, name, *_):
        if name == module:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except KeyboardInterrupt as error:
                raise ImportError("as some packages do") from error
sys.meta_path.insert(0, Finder())
from memjax.cli import main
sys.argv[1:] = ["configs"]
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["argparse", "memjax.commands.parser", "jax"])
def test_an_interrupt_while_packages_are_imported_is_one_line(module):
    command = [sys.executable, "-c", INTERRUPTED, module]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (130, "memjax: error: interrupted\n")


def test_an_interrupt_while_words_are_read_is_one_line(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupted)
    assert cli.main(["configs"]) == 130
    assert capsys.readouterr().err == "memjax: error: interrupted\n"
    with pytest.raises(KeyboardInterrupt):
        cli.main(["configs", "--debug"])


def test_the_usual_answer_to_an_interrupt_comes_back():
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with ending_at_once():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup leaves it
        with ending_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_python_ignores_comes_again(capsys):
    class Ends:
        def __del__(self):
            raise KeyboardInterrupt

    def run():
        Ends()
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set it to be ignored
    try:
        assert without_traceback(run) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "memjax: error: interrupted\n"


def test_a_misspelt_command_names_the_nearest_and_none_shows_them_all(capsys):
    with pytest.raises(SystemExit):
        cli.main(["trian", "--config=x"])
    assert "(did you mean 'train'?), got 'trian' (see memjax --help)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["train", "--config=x", "--workdir=w", "--sed=3"])
    assert "unrecognized argument: --sed (a field is --config.FIELD=VALUE) (see" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["train", "--confg=x"])
    assert "--confg (did you mean '--config'?) (see memjax train --help)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["report", "a", "--out="])
    assert "argument --out: expected a path, got nothing" in capsys.readouterr().err
    assert cli.main([]) == 2
    assert "usage: memjax" in capsys.readouterr().err
    assert cli.main(["train", "--config=x", "--config.seed", "--workdir=w"]) == 2
    assert "--config.seed: expected --config.seed=VALUE, got no value" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["report", "{dir}"], ["inspect", "{dir}"], ["inspect", "{dir}", "--digest"]]
)
def test_a_directory_without_a_run_is_one_line_and_code_2(argv, capsys, tmp_path):
    assert cli.main([word.format(dir=tmp_path) for word in argv]) == 2
    assert capsys.readouterr().err.startswith("memjax: error: workdir: expected the directory of a run")


def test_config_fields_belong_to_train(capsys, tmp_path):
    assert cli.main(["inspect", str(tmp_path), "--config.seed=3"]) == 2
    assert "only `memjax train`" in capsys.readouterr().err


def test_inspect_prints_the_digest(tmp_path, capsys):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, {"count": 1})
    assert cli.main(["inspect", str(tmp_path), "--digest"]) == 0
    digest, _, step = capsys.readouterr().out.split()
    assert (len(digest), step) == (64, "3")
    assert cli.main(["inspect", str(tmp_path)]) == 0
    assert "no memories" in capsys.readouterr().out


def test_evaluate_prints_a_table(monkeypatch, capsys, tmp_path):
    def evaluate_workdir(workdir, *, episodes, policies, bank):
        assert (workdir, episodes, policies, bank) == (tmp_path, 5, ("policy", "memory"), None)
        table = {"policy": {"return": [1.0, 2.0], "length": 3}, "memory": {"return": 7.0}}
        return {"step": 5000, "policies": table}

    monkeypatch.setattr(evaluate, "evaluate_workdir", evaluate_workdir)
    argv = ["evaluate", f"--workdir={tmp_path}", "--episodes=5", "--policies=policy,memory"]
    assert cli.main(argv) == 0
    title, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert title == ["step", "5,000"]
    assert rows == [["policy", "return", "length"], ["policy", "1.5", "3"], ["memory", "7", "-"]]


def memjax(*words):
    return subprocess.run(
        [sys.executable, "-m", "memjax", *words], capture_output=True, text=True, check=False
    )


def test_the_command_itself_ends_with_code_2_and_no_traceback(tmp_path):
    run = memjax("train", f"--config={tmp_path}/none.py", f"--workdir={tmp_path}/w")
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("memjax: error: --config: expected a config file")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["remember", "--help"], ["--version"]])
def test_help_does_not_wait_for_jax(words):
    program = (
        "import sys, memjax.cli\n"
        "try: memjax.cli.main(sys.argv[1:])\n"
        "except SystemExit: print('jax' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
    assert words[-1] != "--version" or run.stdout.splitlines()[0] == f"memjax {__version__}"


@pytest.mark.parametrize(
    "words", [["DIR"], ["--workdir=DIR"], ["--workdir", "DIR"], ["--debug", "DIR"], ["DIR", "--debug"]]
)
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--config=x"],
        ["remember", "--config=x"],
        ["evaluate", "--episodes=3"],
        ["inspect"],
        ["report"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_takes_its_directory_in_both_places(command, words):
    arguments = cli._parser().parse_args([*command, *words])
    assert (arguments.workdir, arguments.workdirs) == (Path("DIR"), [Path("DIR")])
    arguments = cli._parser().parse_args([command[0], *words, *command[1:]])
    assert arguments.workdir == Path("DIR")


def test_a_report_takes_several_directories_in_any_place():
    arguments = cli._parser().parse_args(["report", "a", "--out=x.png", "b", "--workdir=c", "--workdir", "d"])
    assert sorted(map(str, arguments.workdirs)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("command", ["train", "evaluate", "inspect", "remember"])
def test_two_directories_of_one_run_are_a_mistake(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, *(["--config=x"] if command in ("train", "remember") else []), "a", "--workdir=b"])
    assert end.value.code == 2
    assert "expected one directory of a run, got a, b" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["s3://bucket/run", "file:///runs/a"])
def test_an_address_is_not_taken_for_a_local_folder(where, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (["train", "--config=four_rooms", where], ["report", f"--workdir={where}"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 2
        assert (
            f"expected a local path (mount a bucket, with gcsfuse or rclone, and name the mount), got {where}"
            in (capsys.readouterr().err)
        )
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_expanded_wherever_a_path_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    parse = cli._parser().parse_args
    assert parse(["train", "--config=x", "~/run"]).workdir == tmp_path / "run"
    assert parse(["evaluate", "--workdir=~/run", "--bank=~/e.hdf5"]).bank == str(tmp_path / "e.hdf5")
    assert parse(["report", "~/a", "--workdir", "~/b", "--out=~/c.png"]).out == tmp_path / "c.png"
    made = parse(["collect", "--env=e", "--steps=1", "--policy", "~/p.npz", "random", "--out=~/d.hdf5"])
    assert (made.policy, made.out) == ([str(tmp_path / "p.npz"), "random"], tmp_path / "d.hdf5")
    (tmp_path / "mine.py").write_text("from memjax.configs.reframe import get_config")
    fields = [("data.path", "~/low.hdf5"), ("data.experts", "~/high.hdf5"), ("data.cache", "~")]
    data = config_module.resolve(load_config("~/mine.py:hopper+smoke", fields)).data
    assert (data.path, data.experts) == (str(tmp_path / "low.hdf5"), str(tmp_path / "high.hdf5"))
    assert data.cache == str(tmp_path)
    fields = [("benchmark.folder", "~/tasks"), ("store.path", "~/store.sqlite")]
    language = resolve_language(load_config("language", fields))
    assert (language.benchmark.folder, language.store.path) == (
        str(tmp_path / "tasks"),
        str(tmp_path / "store.sqlite"),
    )


def test_no_byte_of_what_others_wrote_acts_on_the_terminal(launched, config_file, tmp_path, capsys):
    launched.outcome = CheckpointError(
        "\x1b]0;title\x07 \x1b[2J bad\u202e name\r\nnext \x9b31m" + "x" * 100_000
    )
    argv = ["train", f"--config={config_file}", f"--workdir={tmp_path}"]
    assert cli.main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("memjax: error: \\x1b]0;title\\x07 \\x1b[2J bad\\u202e name next \\x9b31mxxx")
    assert error.rstrip("\n").isprintable()
    assert len(error) < 1_100


@pytest.mark.parametrize("text", ["-" * 5000 + "1", "[" * 5000, "9" * 5000])
def test_an_option_that_python_cannot_read_is_text(text):
    assert argument_types.option(f"frame_skip={text}") == ("frame_skip", text)


@pytest.mark.parametrize("flag", ["--seed", "--num-envs", "--steps"])
@pytest.mark.parametrize("text", [str(2**70), "8" * 6000, "-1", "²"])
def test_a_number_of_too_many_digits_is_one_short_line(flag, text, capsys):
    argv = ["collect", "--env=envpool/Pendulum-v1", "--policy=random", "--out=x.hdf5", "--episodes=1"]
    if flag == "--steps":
        argv.remove("--episodes=1")
    with pytest.raises(SystemExit) as stop:
        cli.main([*argv, f"{flag}={text}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert (error.count("\n"), flag in error, len(error) < 1_100) == (1, True, True)


def test_without_the_cache_nothing_is_kept_whatever_the_environment_says(tmp_path):
    folder = tmp_path / "cache"
    program = f"""
import jax
from pathlib import Path
from memjax.commands.compilation_cache import use_compilation_cache

def kept(number):
    before = len(list(Path({str(folder)!r}).glob("*")))
    jax.jit(lambda x: x * number + 1)(3.0)
    return len(list(Path({str(folder)!r}).glob("*"))) > before

with use_compilation_cache(False):
    inside = kept(2)
print(inside, Path({str(folder)!r}).exists())
print(kept(3))  # what follows in the same process keeps again
with use_compilation_cache(True):
    print(kept(4))
print(kept(5))
"""
    cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_COMPILATION_CACHE_DIR": str(folder)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | cache, check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == ["False", "False", "True", "True", "True"]


@pytest.mark.parametrize("words", [["report"], ["inspect"], ["train", "--config=four_rooms:smoke"]])
@pytest.mark.parametrize("workdir", ["x" * 300, "/".join(["y" * 200] * 25), "a\0b"])
def test_a_workdir_that_no_file_system_takes_is_refused_in_one_line(words, workdir, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, f"--workdir={workdir}"])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("memjax: error: ")
    assert said.count("\n") == 1
    assert len(said) < 250
