"""`memjax remember` on a tiny benchmark of our own, against a scripted endpoint; its configs and results."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
from fake_endpoint import Answer, chat_answer, serve
from signalled import killed, signalled

from memjax import cli
from memjax.commands.remember import resolve_language
from memjax.commands.report_language import load_curve, outcomes
from memjax.config_file import load_config
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.run.config import Mode
from memjax.llm.tasks.humaneval import load_humaneval

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "memjax" / "configs" / "language.py"
if not CONFIG.is_file():
    pytest.skip("no experiment configs beside the tests", allow_module_level=True)

from experiments import language_results  # noqa: E402
from memjax.configs import language  # noqa: E402
from memjax.configs.language import SOURCE, VARIANTS  # noqa: E402

MODES = get_args(Mode)
DEAD = "http://127.0.0.1:1/v1"
NUMBERS = (3, 5, 7, 11)


def write_tasks(folder: Path) -> Path:
    """Four programs in HumanEval's format: multiply by a number."""
    folder.mkdir()
    rows = []
    for n in NUMBERS:
        prompt = (
            f'def times_{n}(x):\n    """Multiply the whole number x by {n}.\n    >>> times_{n}(1)\n    """\n'
        )
        check = f"def check(candidate):\n    assert candidate(2) == {2 * n}\n    assert candidate(0) == 0\n"
        row = {"task_id": f"Ours/{n}", "prompt": prompt, "entry_point": f"times_{n}", "test": check}
        rows.append(row | {"canonical_solution": f"    return {n} * x\n"})
    (folder / "HumanEval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def answer(body):
    """Knows two of the programs; the others only when a memory of that same task is shown."""
    text = "\n".join(m["content"] for m in body["messages"])
    if text.startswith(("You turn", "You look")):
        return Answer(chat_answer("1. Multiply by the number in the name."))
    n = next(n for n in NUMBERS if f"def times_{n}(" in body["messages"][-1]["content"])
    notes = "\n".join(m["content"] for m in body["messages"][1:-1])
    factor = n if n in (3, 5) or f"whole number x by {n}" in notes else 0
    return Answer(chat_answer(f"```python\ndef times_{n}(x):\n    return {factor} * x\n```"))


def slow(body):
    time.sleep(0.15)
    return answer(body)


def words(tmp_path, url, workdir, mode="memrl", store="store", **overrides):
    """The command line of a run, as a user would write it."""
    fields = {
        "benchmark.folder": tmp_path / "tasks",
        "chat.endpoint.base_url": url,
        "chat.endpoint.backoff": 0.01,
        "language.epochs": 2,
        "language.batch": 2,
        "language.give_up_after": 2,
        "language.memory.capacity": 16,
        "store.path": tmp_path / f"{store}.sqlite",
    } | {name.replace("__", "."): value for name, value in overrides.items()}
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    source = f"--config={CONFIG}:humaneval+{mode}+local"
    return ["remember", source, f"--workdir={tmp_path / workdir}", *given]


def metrics(tmp_path, workdir):
    return (tmp_path / workdir / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with tasks, and a run that was never interrupted."""
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    tmp_path = tmp_path_factory.mktemp("command")
    write_tasks(tmp_path / "tasks")
    with serve(answer) as (url, requests):
        assert cli.main(words(tmp_path, url, "whole")) == 0
        assert len(requests) > 8
        return tmp_path


def test_a_run_learns_and_describes_itself(whole):
    curve = load_curve(whole / "whole")
    assert curve.success == (0.5, 1.0)
    assert curve.cumulative == (0.5, 1.0)
    assert (curve.mode, curve.played, curve.skipped, curve.whole) == ("memrl", 4, 0, 1.0)
    assert outcomes(whole / "whole", 0) == {f"Ours/{n}": n in (3, 5) for n in NUMBERS}
    config = json.loads((whole / "whole" / "config.json").read_text())
    assert config["chat"]["endpoint"]["model"].startswith("qwen")
    manifest = json.loads((whole / "whole" / "manifest.json").read_text())
    assert manifest["embedder"].startswith("hashed-ngrams")
    assert manifest["sandbox"]["network"] in ("namespace", "filter", "none")
    assert len(manifest["launches"]) == 1


def test_events_without_a_line_in_the_curve_are_said(whole, tmp_path, capsys):
    copy = shutil.copytree(whole / "whole", tmp_path / "copy")
    lines = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    load_curve(copy)
    assert capsys.readouterr().err == ""
    (copy / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))
    load_curve(copy)
    number = len(lines)
    assert f"lacks lines between steps {number - 1} and {number}\n" in capsys.readouterr().err


def test_stopped_killed_and_resumed_it_is_the_same_run(whole):
    with serve(slow) as (url, requests):
        argv = words(whole, url, "broken", store="broken")
        assert signalled(lambda: cli.main(argv), lambda: len(requests) >= 2) == 143
        before = len(requests)
        assert killed(argv, lambda: len(requests) >= before + 5) == -signal.SIGKILL
        assert cli.main(argv) == 0
    assert metrics(whole, "broken") == metrics(whole, "whole")
    assert len(json.loads((whole / "broken" / "manifest.json").read_text())["launches"]) >= 2


def test_a_replay_needs_no_endpoint(whole, capsys):
    argv = words(whole, DEAD, "replay", store__mode="replay")
    assert cli.main(argv) == 0
    assert metrics(whole, "replay") == metrics(whole, "whole")
    told = capsys.readouterr()
    assert "epoch 2 of 2  task 8 of 8  solved 4 of 4 (100%)  ever 100%" in told.err
    assert "asked of the chat model by all launches: 0 of prompts and 0 of replies" in told.out
    assert cli.main(argv) == 0  # a finished run is left as it is
    assert metrics(whole, "replay") == metrics(whole, "whole")


def test_a_dead_endpoint_and_a_spent_budget_end_with_one_line_and_cost_no_task(whole, capsys):
    argv = words(whole, DEAD, "down", store="down")
    assert cli.main(argv) == 1
    said = capsys.readouterr().err
    assert said.startswith("memjax: error: 2 tasks in a row could not be played: down:")
    assert said.count("\n") == 1
    assert cli.main([*argv, "--config.budget.tokens=10"]) == 1
    assert capsys.readouterr().err.startswith("memjax: error: budget: budget of 10 tokens")
    with serve(answer) as (url, _):
        assert cli.main([*argv, f"--config.chat.endpoint.base_url={url}"]) == 0
    assert metrics(whole, "down") == metrics(whole, "whole")


@pytest.mark.parametrize(
    ("mode", "override", "message"),
    [
        ("memrl", {"benchmark__folder": "/nowhere"}, "/nowhere: expected a folder"),
        ("memrl", {"benchmark__name": "humanevil"}, "benchmark.name: expected one of alfworld"),
        ("memrl", {"benchmark__options__turns": 3}, "benchmark.options.turns: expected one of held_out"),
        ("memrl", {"benchmark__options__held_out": "much"}, "benchmark.options.held_out: expected float"),
        ("memrl", {"chat__endpoint__key_env": "NO_SUCH_KEY"}, "chat.endpoint.key_env: expected an environ"),
        ("memrl", {"language__mode": "memory"}, "language.mode: expected"),
        ("memrl", {"language__seed": 1}, "workdir: expected the run of config.json in it"),
        ("rag", {}, "workdir: expected the run of config.json in it, whose language.mode is 'memrl'"),
        ("none", {"store__mode": "replay", "store__path": "/no.sqlite"}, "/no.sqlite: expected an SQLite"),
    ],
)
def test_mistakes_are_one_line_and_code_2(whole, capsys, mode, override, message):
    assert cli.main(words(whole, DEAD, "whole", mode, **override)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"memjax: error: {message}")
    assert said.count("\n") == 1


def test_similarities_tell_what_a_threshold_may_be(whole, capsys):
    assert cli.main([*words(whole, DEAD, "similar"), "--similarities"]) == 0
    mean, std, quantile = (float(x) for x in capsys.readouterr().out.split()[1::2] if "." in x)
    vectors = HashedNgrams(384).embed([task.intent for task in load_humaneval(whole / "tasks").train])
    pairs = [float(vectors[i] @ vectors[j]) for i in range(4) for j in range(i)]
    assert mean == pytest.approx(sum(pairs) / 6, abs=1e-3)
    assert 0 < std < 1
    assert sorted(pairs)[3] <= quantile + 1e-3 <= sorted(pairs)[5] + 2e-3


def test_a_config_of_train_is_refused(capsys, tmp_path):
    classic = CONFIG.with_name("classic.py")
    assert cli.main(["remember", f"--config={classic}", f"--workdir={tmp_path}"]) == 2
    assert "a config of `memjax remember`" in capsys.readouterr().err


def test_report_and_results_compare_runs(whole, capsys):
    with serve(answer) as (url, _):
        assert cli.main(words(whole, url, "rag", "rag")) == 0
        assert cli.main(words(whole, url, "none", "none")) == 0
    runs = [str(whole / name) for name in ("whole", "rag", "none")]
    assert cli.main(["report", *runs]) == 0
    assert (whole / "whole" / "report.png").stat().st_size > 1000
    assert "last success" in capsys.readouterr().out
    out = whole / "results"
    language_results.main([*runs, f"--out={out}"])
    lines = (out / "curves.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 2
    assert "humaneval,qwen2.5-coder-1.5b-instruct-q4_k_m,none,0,2,0.5,0.5" in (out / "curves.csv").read_text()
    text = (out / "tables.md").read_text()
    assert "| no memory | 50.0 % | 50.0 % |" in text
    assert "MemRL minus no memory: +50.0 points" in text
    assert (out / "curves.png").stat().st_size > 1000


def test_evaluate_plays_the_held_out_tasks_as_transfer_does_and_changes_nothing(whole, capsys, tmp_path):
    """The same replies as those of a run that has the transfer in its schedule: both come from one store."""
    changes = dict(benchmark__options__held_out=0.5, store="held", language__epochs=1)
    with serve(answer) as (url, _):
        assert cli.main(words(whole, url, "transfer", **changes, language__transfer=True)) == 0
        assert cli.main(words(whole, url, "learned", **changes)) == 0
        rate = load_curve(whole / "transfer").transfer
        before = metrics(whole, "learned")
        capsys.readouterr()
        assert cli.main(["evaluate", str(whole / "learned")]) == 0
    assert f"solved          {round(2 * rate)} ({rate:.1%})" in capsys.readouterr().out
    assert metrics(whole, "learned") == before
    assert cli.main(["evaluate", str(whole / "whole")]) == 2
    assert "one with held-out tasks" in capsys.readouterr().err
    assert cli.main(["evaluate", str(whole / "learned"), "--episodes=3"]) == 2


def test_report_does_not_mix_runs_of_two_kinds(whole, capsys, tmp_path):
    assert cli.main(["report", str(whole / "whole"), str(tmp_path)]) == 2
    assert "expected runs of `memjax remember` alone" in capsys.readouterr().err


def test_the_model_grades_where_it_is_asked_to(tmp_path):
    pytest.importorskip("openai", reason="an extra: pip install 'memjax[llm]'")
    question = {"question": "How many legs has a spider?", "answer_type": "exactMatch", "image": ""}
    rows = [question | {"id": name, "answer": name, "category": "Other"} for name in ("eight", "nine")]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "hle.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def graded(body):
        text = body["messages"][-1]["content"]
        if "Right answer:" in text:
            return Answer(chat_answer(f"correct: {'yes' if 'Right answer: eight' in text else 'no'}"))
        return Answer(chat_answer("Answer: it has 8"))

    with serve(graded) as (url, _):
        for judge in (False, True):
            argv = words(tmp_path, url, f"judge-{judge}", "none", benchmark__options__judge=judge)
            argv[1] = f"--config={CONFIG}:hle+none+local"
            assert cli.main(argv) == 0
    assert load_curve(tmp_path / "judge-False").success == (0.0, 0.0)
    assert load_curve(tmp_path / "judge-True").success == (0.5, 0.5)


STAND_IN = """
import types

class CommonParams:
    def __init__(self):
        self.model, self.cpuparams, self.cpuparams_batch = (types.SimpleNamespace() for _ in range(3))

class Server:
    def __init__(self, params):
        assert (params.n_ctx, params.n_parallel, params.cpuparams_batch.n_threads) == (4096, 2, 3)
        self.listening_address = f"http://{params.hostname}:{params.port}"
"""


def test_the_local_server_starts_and_ends_on_a_signal(tmp_path):
    script = ROOT / "experiments" / "launch" / "local_model.py"
    command = [sys.executable, str(script), str(tmp_path / "m.gguf")]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    (tmp_path / "m.gguf").touch()
    (tmp_path / "xllamacpp.py").write_text(STAND_IN)
    command += ["--port=8123", "--context=4096", "--parallel=2", "--threads=3"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:8123/v1 serves m.gguf")
        process.terminate()
        assert process.wait(timeout=60) == 0


def resolved(variant=""):
    return resolve_language(load_config(f"{CONFIG}:{variant}"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_resolves_alone_and_small(variant):
    whole, small = resolved(variant), resolved(f"{variant}+smoke")
    assert small.benchmark.name == whole.benchmark.name
    assert small.language.mode == whole.language.mode
    assert small.benchmark.limit == 4
    assert small.language.give_up_after <= small.language.batch


@pytest.mark.parametrize("name", SOURCE)
def test_benchmarks_have_the_presets_of_the_source(name):
    paper, code = resolved(name).language, resolved(f"{name}+code").language
    assert (paper.memory.unit, code.memory.unit) == ("memories", "buckets")
    assert paper.reward_failure == -1.0
    assert code.reward_failure == (0.0 if name.startswith("lifelong") else -1.0)
    assert paper.give_up_after <= paper.batch
    local = resolved(f"{name}+local")
    assert local.embed.kind == "local"
    assert local.chat.endpoint.key_env is None
    assert local.language.concurrency == 1


def test_local_hides_failures_where_that_paid_and_leaves_the_rest_as_the_source_has_it():
    def shown(variant):
        memory = resolved(variant).language.memory
        return memory.keep, memory.initial_success, memory.initial_failure, memory.minimum

    assert shown("lifelong_db+local") == shown("lifelong_db+rag+local") == (3, 0.5, -0.5, -0.4)
    assert shown("humaneval+local") == shown("lifelong_os+local") == (2, 0.0, 0.0, None)
    assert shown("lifelong_db+code+local")[1:] == shown("lifelong_db+code")[1:]
    assert shown("lifelong_db") == (5, 0.0, 0.0, None)


def test_every_mode_is_a_variant_and_has_a_name_in_the_tables():
    assert set(MODES) == set(language.MODES) == set(language_results.NAMES)


@pytest.mark.parametrize("mode", MODES)
def test_modes_differ_in_the_mode_alone(mode):
    own, memrl = resolved(mode), resolved("memrl")
    assert own.language.summaries == (mode != "rag")
    assert resolved(f"{mode}+summaries").language.summaries
    changed = {"mode": "memrl", "temperature": memrl.language.temperature, "summaries": True}
    assert own.language.mode == mode
    assert {**own.language.__dict__, **changed} == memrl.language.__dict__


def test_the_config_says_what_it_is():
    text = CONFIG.read_text()
    for part in ("Source:", "Expected", "Cost:", "memjax remember"):
        assert part in text
