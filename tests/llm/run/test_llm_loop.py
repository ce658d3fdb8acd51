"""The loop: what is learned, in which order, by whom it is seen, and what ends it."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
from language_case import ScriptedChat, ScriptedTask, arrays_of, benchmark, config, embedder

from memjax import cli
from memjax.llm.clients.budget import BudgetedChat, Ledger
from memjax.llm.clients.cache import Store, StoredChat, StoredEmbedder
from memjax.llm.clients.config import BudgetConfig, StoreConfig
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.run.config import LanguageConfig
from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.loop import Stopped, evaluate_language, run_language
from memjax.llm.run.memory import RowMemory
from memjax.llm.types import Benchmark, ChatError, Outcome
from memjax.runs.digest import digest
from memjax.runs.workdir import read_json, write_json
from memjax.schema import later_fields, parse
from memjax.types import ConfigError


def run(workdir, settings, tasks=None, chat=None, embed=None, **more):
    """A whole run; its metrics lines."""
    tasks, chat, embed = tasks or benchmark(), chat or ScriptedChat(), embed or embedder()
    assert run_language(workdir, settings, tasks, chat, embed, **more)
    return lines(workdir)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def open_log(workdir):
    return ExperienceLog(workdir / "experience.sqlite", embedder=embedder().name, dim=embedder().dim)


def arrays(workdir, settings):
    return arrays_of(workdir, settings)[0]


def test_utilities_are_those_of_one_update_after_the_other(tmp_path):
    """The arrays against the log, replayed in plain Python: Q <- Q + alpha (r - Q) for all injected."""
    settings = config(epochs=3)
    run(tmp_path, settings)
    log, utility, visits = open_log(tmp_path), {}, {}
    for event in log.events():
        for recall, reward in zip(event.recalls, event.rewards, strict=True):
            for row in recall.rows:
                utility[row] += np.float32(settings.memory.step_size) * (np.float32(reward) - utility[row])
                visits[row] += 1
        for row in event.rows:
            utility[row], visits[row] = np.float32(0.0), 0
    state = arrays(tmp_path, settings)
    rows = np.asarray(state.values.payload["row"])[np.asarray(state.valid)]
    assert sorted(rows) == sorted(utility) == list(range(30))
    np.testing.assert_allclose(state.utility[: len(rows)], [utility[r] for r in rows], atol=1e-6)
    np.testing.assert_array_equal(state.visits[: len(rows)], [visits[r] for r in rows])
    assert sum(visits.values()) > 20
    log.close()


def test_what_is_shown_is_what_the_log_says_was_recalled(tmp_path):
    tasks = benchmark()
    run(tmp_path, config(epochs=2), tasks)
    log = open_log(tmp_path)
    for epoch in range(2):
        for minibatch in range(3):
            for plan in log.plans("learn", epoch, minibatch):
                task = next(t for t in tasks.train if t.id == plan.task_id)
                for experience in log.experiences(plan.recall.rows):
                    assert experience.content.split("\n")[0] in task.shown[epoch]
                    assert experience.intent in task.shown[epoch]
                assert (task.shown[epoch] == "") == (plan.recall.rows == ())
    log.close()


def test_a_minibatch_sees_the_memory_as_it_was_before_it(tmp_path):
    settings = config(epochs=2)
    assert {line["staleness"] for line in run(tmp_path, settings)} == {0.0}
    log = open_log(tmp_path)
    written = 0
    for event in log.events():
        assert all(row < written for recall in event.recalls for row in recall.rows)
        written += len(event.rows)
    log.close()


def test_overlap_is_staleness_and_does_not_depend_on_who_is_quick(tmp_path):
    quick = run(tmp_path / "a", config(overlap=2, epochs=3))
    jitter = ScriptedChat(fails=lambda m: time.sleep((hash(m[-1].content) % 7) * 0.005))
    slow = run(tmp_path / "b", config(overlap=2, epochs=3, concurrency=7), chat=jitter)
    assert quick == slow
    assert [line["staleness"] for line in quick] == [0.0, 1.0] + [2.0] * 7


def test_the_number_of_requests_in_flight_is_kept(tmp_path):
    """With overlap, stragglers of one minibatch leave no worker idle; without limit none begins too many."""
    lock, flying, most = threading.Lock(), 0, 0

    def fly(messages):
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.2 if "variant 0" in messages[-1].content else 0.02)
        with lock:
            flying -= 1

    run(tmp_path, config("none", epochs=2, concurrency=3, overlap=2), chat=ScriptedChat(fails=fly))
    assert most == 3


def test_results_stay_with_their_tasks_whoever_fails(tmp_path):
    """Failed summaries and skipped tasks shift nothing: each row holds its own task's record."""

    def fails(messages):
        text = messages[-1].content
        if "variant 1" in text and "<record>" in text:
            return "malformed"
        return "timeout" if "variant 2" in text and "<record>" not in text else None

    found = run(tmp_path, config(epochs=2), chat=ScriptedChat(fails=fails))
    assert sum(line["skipped"] for line in found) == 2
    assert sum(line["summaries_failed"] for line in found) == 2
    log = open_log(tmp_path)
    rows = log.experiences(range(log.num_experiences()))
    assert [x.task_id for x in rows[:9]] == [f"task-{i}" for i in range(10) if i != 2]
    for x in rows:
        assert f"\nTask: {x.intent}" in x.content
        assert x.intent.endswith(f"variant {x.task_id.removeprefix('task-')}")
        assert x.provenance["source"] == ("trajectory" if x.task_id == "task-1" else x.provenance["source"])
        assert bool(x.provenance["summary_error"]) == (x.task_id == "task-1")
        assert "Solution that worked:" in x.content or "What was tried, and failed:" in x.content
    for event in log.events():
        for number, scored, row in zip(event.tasks, event.scored, event.rows, strict=True):
            assert scored == (row >= 0) == (log.number_tasks([])["task-2"] != number)
    assert log.attempts("learn", 0)["task-2"].error == "timeout: scripted timeout"
    log.close()


def test_a_task_that_breaks_is_a_counted_skip(tmp_path):
    class Broken(ScriptedTask):
        def attempt(self, ask, memories):
            raise OSError("no space\nleft")

    tasks = [Broken(0), *benchmark(4).train[1:]]
    found = run(tmp_path, config(epochs=1), Benchmark("b", tasks, [], {}))
    assert found[0]["skipped"] == 1
    log = open_log(tmp_path)
    assert log.attempts("learn", 0)["task-0"].error == "OSError: no space left"
    log.close()


def test_an_endpoint_that_is_gone_ends_the_run_and_costs_nothing(tmp_path):
    settings = config(epochs=1, give_up_after=3)
    with pytest.raises(Stopped, match=r"3 tasks in a row could not be played: down: scripted down"):
        run(tmp_path, settings, chat=ScriptedChat(fails=lambda m: "down"))
    assert sum(line["skipped"] for line in run(tmp_path, settings)) == 0
    assert digest(arrays(tmp_path, settings)) == digest(arrays(fresh(tmp_path, settings), settings))


def fresh(tmp_path, settings):
    run(tmp_path / "fresh", settings)
    return tmp_path / "fresh"


def test_an_evaluation_that_no_endpoint_answers_ends_with_the_reason(tmp_path):
    settings = config(epochs=1)
    run(tmp_path, settings)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(Stopped, match="3 tasks in a row could not be played: down: scripted down"):
        evaluate_language(tmp_path, settings, benchmark(), ScriptedChat(fails=lambda _: "down"), embedder())
    played = evaluate_language(tmp_path, settings, benchmark(), ScriptedChat(), embedder())
    assert [attempt.error for _, attempt in played] == [""] * 3
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_spent_budget_stops_at_once_and_more_money_goes_on(tmp_path):
    def paid(limit):
        return BudgetedChat(
            ScriptedChat(), Ledger(BudgetConfig(limit, None, 0, 0), tmp_path / "money.sqlite")
        )

    settings = config(epochs=2)
    with pytest.raises(Stopped, match="budget: budget of 3000 tokens"):
        run(tmp_path / "run", settings, chat=paid(3000))
    found = run(tmp_path / "run", settings, chat=paid(None))
    assert found == run(tmp_path / "whole", settings)
    assert digest(arrays(tmp_path / "run", settings)) == digest(arrays(tmp_path / "whole", settings))


def test_a_replay_offline_is_the_same_run(tmp_path):
    settings = config(epochs=2, transfer=True)

    def stored(mode, chat, embed):
        kept = Store(StoreConfig(mode, str(tmp_path / "store.sqlite")))
        return StoredChat(chat, kept, name="scripted"), StoredEmbedder(
            embed, kept, name=embedder().name, dim=embedder().dim
        )

    chat, embed = stored("cache", ScriptedChat(), embedder())
    first = run(tmp_path / "a", settings, chat=chat, embed=embed)
    chat, embed = stored("replay", None, None)
    assert run(tmp_path / "b", settings, chat=chat, embed=embed) == first
    assert digest(arrays(tmp_path / "a", settings)) == digest(arrays(tmp_path / "b", settings))
    with pytest.raises(ConfigError, match=r"store\.path: expected a recording of every request"):
        run(tmp_path / "c", config(epochs=2, max_tokens=49), chat=chat, embed=embed)


def test_a_stop_is_obeyed_and_the_run_goes_on(tmp_path):
    asked = 0

    def should_stop():
        nonlocal asked
        asked += 1
        return asked > 4

    settings = config(epochs=2)
    assert not run_language(
        tmp_path, settings, benchmark(), ScriptedChat(), embedder(), should_stop=should_stop
    )
    assert run(tmp_path, settings) == run(tmp_path / "whole", settings)


def test_transfer_leaves_the_memory_as_it_is(tmp_path):
    """And held-out tasks do see it."""
    settings, tasks = config(epochs=2, transfer=True), benchmark()
    found = run(tmp_path, settings, tasks)
    assert "transfer_success_rate" in found[-1]
    assert found[-1]["memories"] == 20
    assert all(task.shown[0] for task in tasks.held_out)
    run(tmp_path / "without", config(epochs=2))
    assert digest(arrays(tmp_path, settings)) == digest(arrays(tmp_path / "without", settings))


@pytest.mark.parametrize("mode", ["memp", "rag"])
def test_baselines_choose_by_similarity_and_learn_no_utility(tmp_path, mode):
    settings, chat = config(mode, epochs=2), ScriptedChat()
    run(tmp_path, settings, chat=chat)
    state = arrays(tmp_path, settings)
    assert not np.any(state.utility)
    assert not np.any(state.visits)
    log = open_log(tmp_path)
    vectors = log.vectors([name for event in log.events() for name in event.intents])
    written = []
    for event in log.events():
        for name, recall in zip(event.intents, event.recalls, strict=True):
            near = sorted((vectors[name] @ vectors[other] for other in written), reverse=True)
            best = [x for x in near if x > settings.memory.threshold][: settings.memory.keep]
            np.testing.assert_allclose(recall.similarity, best, atol=1e-5)
        written += [name for name, row in zip(event.intents, event.rows, strict=True) if row >= 0]
    summaries = sum("<record>" in messages[-1].content for messages in chat.asked)
    assert summaries == (20 if mode == "memp" else 0)
    sources = {x.provenance["source"] for x in log.experiences(range(20))}
    assert sources == ({"script", "reflection"} if mode == "memp" else {"trajectory"})
    log.close()


def test_reflexion_retries_what_failed_with_its_own_reflections(tmp_path):
    tasks = benchmark()
    found = run(tmp_path, config("reflexion", epochs=3), tasks)
    rates = [line["success_rate"] for line in found if "success_rate" in line]
    assert rates == sorted(rates)
    assert rates == [line["cumulative_success_rate"] for line in found if "success_rate" in line]
    log = open_log(tmp_path)
    for x in log.experiences(range(log.num_experiences())):
        assert not x.success
        assert {y.task_id for y in log.experiences(x.recall.rows)} <= {x.task_id}
        assert len(x.recall.rows) == min(x.epoch, 2)
    solved = set()
    for epoch in range(3):
        played = log.attempts("learn", epoch)
        assert not solved & set(played)
        solved |= {name for name, attempt in played.items() if attempt.success}
    log.close()


@pytest.mark.parametrize("mode", ["memrl", "rag"])
def test_a_task_that_failed_sees_its_own_reflection_beside_the_successes_of_others(tmp_path, mode):
    tasks, settings = benchmark(), config(mode, epochs=3, own_reflection=True, memory={"keep": 3})
    run(tmp_path / "on", settings, tasks)
    run(tmp_path / "off", config(mode, epochs=3, memory={"keep": 3}))
    logs = [open_log(tmp_path / name) for name in ("on", "off")]
    on, off = (log.experiences(range(30)) for log in logs)
    assert [x.recall for x in on[:10]] == [x.recall for x in off[:10]]  # the first epoch: nothing failed yet
    last, seen = {}, []
    for x in on:
        before = last.get(x.task_id)
        if before is not None and not before.success:
            own, *others = (on[row] for row in x.recall.rows)
            assert own is before
            assert all(other.success and other.task_id != x.task_id for other in others)
            seen.append(len(others))
        last[x.task_id] = x
    assert len(seen) >= 2
    assert max(seen) == 2
    failed = [x.content for x in on if not x.success]
    blocks = [block for task in tasks.train for block in task.shown if "These ended badly" in block]
    assert len(blocks) >= len(seen)
    assert all(any(text in block for text in failed) for block in blocks)
    if mode == "memrl":  # what is shown earns the reward
        state, visits = arrays(tmp_path / "on", settings), np.zeros(30, int)
        for event in logs[0].events():
            np.add.at(visits, [row for recall in event.recalls for row in recall.rows], 1)
        rows = np.asarray(state.values.payload["row"])[np.asarray(state.valid)]
        np.testing.assert_array_equal(np.asarray(state.visits)[np.asarray(state.valid)], visits[rows])
    for log in logs:
        log.close()


def test_samples_of_pass_at_k_differ_and_remember_nothing(tmp_path):
    class Drawn(ScriptedChat):
        def complete(self, messages, *, max_tokens, temperature, seed):
            reply = super().complete(messages, max_tokens=max_tokens, temperature=temperature, seed=seed)
            self.seeds = [*getattr(self, "seeds", []), seed]
            return reply

    tasks, chat = benchmark(), Drawn()
    found = run(tmp_path, config("pass_at_k", epochs=3, temperature=0.8), tasks, chat)
    assert len(set(chat.seeds)) == 30
    assert all(shown == "" for task in tasks.train for shown in task.shown)
    assert found[-1]["memories"] == 0
    assert found[-1]["cumulative_success_rate"] >= found[-1]["success_rate"]


def test_rates_against_their_definition(tmp_path):
    """Success by (task, epoch) as scripted: last and cumulative rates, and what was forgotten."""
    script = {0: (1, 1, 0), 1: (0, 1, 1), 2: (0, 0, 0), 3: (1, 0, 0)}

    class Set(ScriptedTask):
        def attempt(self, ask, memories):
            self.shown.append(memories)
            number = int(self.id.removeprefix("task-"))
            return Outcome(self.id, bool(script[number][len(self.shown) - 1]), 0.0, "t")

    found = run(tmp_path, config("none", epochs=3), Benchmark("b", [Set(i) for i in range(4)], [], {}))
    assert [line["success_rate"] for line in found] == [0.5, 0.5, 0.25]
    assert [line["cumulative_success_rate"] for line in found] == [0.5, 0.75, 0.75]
    assert [line["forgetting_rate"] for line in found] == [0.0, 1 / 2, 2 / 3]


def test_quarantine_by_the_command_acts_when_the_run_goes_on(tmp_path, capsys):
    run(tmp_path, config(epochs=2))
    log = open_log(tmp_path)
    used = next(row for event in log.events() for recall in event.recalls for row in recall.rows)
    family = log.built_on([used])
    log.close()
    assert cli.main(["quarantine", str(tmp_path), f"--rows={used}", "--why=wrong"]) == 0
    assert f"hidden: {len(family)} memories" in capsys.readouterr().out
    run(tmp_path, config(epochs=4))
    log = open_log(tmp_path)
    later = {row for event in log.events(6) for recall in event.recalls for row in recall.rows}
    assert later
    assert not later & set(family)
    assert log.hidden() == dict.fromkeys(family, True)
    log.close()
    assert cli.main(["quarantine", str(tmp_path), "--rows=999"]) == 2
    assert "a log with experience 999" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_goes_on_without_the_fields_that_came_later(tmp_path):
    run(tmp_path, config(epochs=1))
    old = read_json(tmp_path / "config.json")
    later = later_fields(LanguageConfig, "language")
    assert {"language.shards", "language.own_reflection"} <= later.keys()
    for path in later:
        del old["language"][path.removeprefix("language.")]
    write_json(tmp_path / "config.json", old)
    run(tmp_path, config(epochs=2))
    assert read_json(tmp_path / "config.json")["language"] == old["language"] | {"epochs": 2}
    assert parse(LanguageConfig, old["language"], "language") == config(epochs=1)
    changed = pytest.raises(ConfigError, match=r"own_reflection is False .*own_reflection=False")
    with changed:
        run(tmp_path, config(epochs=2, own_reflection=True))


def test_epochs_can_be_added(tmp_path):
    run(tmp_path, config(epochs=1))
    assert run(tmp_path, config(epochs=3)) == run(tmp_path / "whole", config(epochs=3))
    with pytest.raises(ConfigError, match=r"^language.epochs: expected at least those that were begun"):
        run(tmp_path, config(epochs=1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(settings=config(reward_failure=0.0)), "language.reward_failure"),
        (dict(tasks=benchmark(9)), "tasks"),
        (dict(embed=HashedNgrams(32, seed=1)), "'hashed-ngrams-v1-seed0' of 32 dims"),
        (dict(embed=HashedNgrams(16)), "got 'hashed-ngrams-v1-seed0' of 16 dims"),
    ],
    ids=["rewards", "tasks", "embedder", "width"],
)
def test_a_workdir_of_another_run_is_refused_in_one_line(tmp_path, changes, says):
    run(tmp_path, config(epochs=1))
    with pytest.raises(ConfigError, match=says) as caught:
        run(tmp_path, **({"settings": config(epochs=1)} | changes))
    assert "\n" not in str(caught.value)


def test_tasks_need_ids_of_their_own(tmp_path):
    with pytest.raises(ConfigError, match="tasks with ids of their own, got 'task-0' twice"):
        run(tmp_path, config(), Benchmark("b", [ScriptedTask(0), ScriptedTask(0)], [], {}))


def test_an_embedder_that_fails_ends_the_run_before_anything_is_played(tmp_path):
    class Failing(HashedNgrams):
        def embed(self, texts):
            raise ChatError("embeddings are down", kind="down")

    with pytest.raises(Stopped, match="down: embeddings are down"):
        run(tmp_path, config(), embed=Failing(32))


def test_each_intent_is_embedded_once(tmp_path):
    class Counting(HashedNgrams):
        texts: list[str] = []  # noqa: RUF012

        def embed(self, texts):
            self.texts.extend(texts)
            return super().embed(texts)

    run(tmp_path, config(epochs=3), embed=Counting(32))
    assert sorted(Counting.texts) == sorted(task.intent for task in benchmark().train)


def test_saved_arrays_are_refused_to_a_memory_of_another_shape(tmp_path):
    settings = config(epochs=1)
    run(tmp_path, settings)
    with pytest.raises(ConfigError, match=r"checkpoint.*as in this program"):
        arrays_of(tmp_path, config(memory=dict(capacity=32)))


def test_warming_up_changes_nothing():
    settings = config()
    memory = RowMemory(settings.bank, 32, settings.batch, 0)
    assert digest(memory.warm_up(memory.init())) == digest(memory.init())


@pytest.mark.parametrize(("name", "place"), [("paper", "db"), ("code", "bigcodebench")])
def test_both_presets_run_and_resume(tmp_path, name, place):
    from memjax.agents.memrl.config import preset

    memory = vars(preset(name, place, capacity=16, threshold=0.2))
    settings = config(epochs=3, memory=memory, save_every=100)
    found = run(tmp_path, settings)
    assert found[-1]["injected"] > 0
    whole = digest(arrays(tmp_path, settings))
    shutil.rmtree(tmp_path / "checkpoints")
    assert run(tmp_path, settings) == found
    assert digest(arrays(tmp_path, settings)) == whole


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("mode", "memory", "did you mean 'memrl'"),
        ("mode", "pass_at_k", "temperature"),
        ("batch", 0, "batch"),
        ("concurrency", 0, "concurrency"),
        ("reward_success", 2.0, "reward_success"),
        ("memory.credit", "leave_one_out", "memory.credit"),
        ("own_reflection", 1, "own_reflection: expected bool"),
    ],
)
def test_bad_configs_are_said_in_one_line(field, value, says):
    import dataclasses

    values = dataclasses.asdict(config())
    section = values["memory"] if field.startswith("memory.") else values
    section[field.split(".")[-1]] = value
    with pytest.raises(ConfigError, match=says):
        parse(LanguageConfig, values, "language")


def test_an_outcome_of_another_task_is_refused(tmp_path):
    class Confused(ScriptedTask):
        def attempt(self, ask, memories):
            return Outcome("task-7", True, 1.0, "t")

    with pytest.raises(ConfigError, match="an outcome of 'task-0', got one of 'task-7'"):
        run(tmp_path, config(), Benchmark("b", [Confused(0)], [], {}))


def test_text_that_no_file_can_hold_is_stored_all_the_same(tmp_path):
    class Odd(ScriptedTask):
        def __init__(self, number):
            super().__init__(number)
            self.intent += " \ud800"

        def attempt(self, ask, memories):
            return super().attempt(ask, memories)._replace(trajectory="\udfff\x00", feedback="\ud800")

    run(tmp_path, config(epochs=1), Benchmark("b", [Odd(i) for i in range(4)], [], {}))
    log = open_log(tmp_path)
    assert [x.intent[-1] for x in log.experiences(range(4))] == ["?"] * 4
    log.close()


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_few_tasks_that_all_fail_end_the_run_with_the_reason(tmp_path, batch):
    chat = ScriptedChat(fails=lambda messages: "down")
    with pytest.raises(Stopped, match="3 tasks in a row could not be played: down: scripted down"):
        run(tmp_path, config("none", batch=batch, give_up_after=50), benchmark(3), chat)


def test_what_failed_is_reported_with_its_reason(tmp_path):
    reported = []
    chat = ScriptedChat(fails=lambda messages: "refused" if "record" in messages[0].content else None)
    run(tmp_path, config(epochs=1), benchmark(4), chat, report=reported.append)
    assert reported[0]["failures"] == ["refused: scripted refused"] * reported[0]["summaries_failed"]
    assert reported[0]["summaries_failed"] == 4
    assert "failures" not in lines(tmp_path)[0]


def test_a_full_disk_ends_the_run_and_skips_no_task(tmp_path, monkeypatch):
    from memjax.llm.sqlite_file import FileError

    def full(self, *_):
        raise FileError("cannot write: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ExperienceLog, "keep_attempt", full)
        with pytest.raises(FileError, match="disk is full"):
            run(tmp_path, config(epochs=1))
    assert run(tmp_path, config(epochs=1)) == run(tmp_path / "whole", config(epochs=1))
