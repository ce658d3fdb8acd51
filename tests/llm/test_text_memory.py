"""A memory for one's own loop: what it learns, with several threads, after a kill; and its example."""

import importlib.util
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from memjax.agents.memrl.config import preset
from memjax.llm import TextMemory
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.run.memory import stored_rows
from memjax.runs.digest import digest
from memjax.types import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_loop.py"
KINDS = ("mend a broken lamp", "track a late parcel", "count the files")
CONFIG = preset("neutral", capacity=64)


def opened(folder, config=CONFIG, **options):
    return TextMemory(folder, HashedNgrams(64), config, **options)


def live(memory, steps, seed=0):
    """Some rounds of tasks; the note that names the kind's own word earns 1, others -1."""
    draw = random.Random(seed)
    for number in range(steps):
        kinds = [draw.randrange(3) for _ in range(draw.randrange(1, 5))]
        found = memory.find([f"{KINDS[kind]} {number}" for kind in kinds])
        rewards = [draw.choice((-1.0, 0.5, 1.0, None)) for _ in kinds]
        notes = [draw.choice((f"note {number} of {kind}", "", None)) for kind in kinds]
        memory.learn(found, rewards, notes)


def test_utilities_follow_the_rule_one_task_after_the_other(tmp_path):
    with opened(tmp_path) as memory:
        live(memory, 16)
        utility, visits = {}, {}
        for event in memory._log.events():
            for recall, reward, scored in zip(event.recalls, event.rewards, event.scored, strict=True):
                for row in recall.rows if scored else ():
                    utility[row] += np.float32(CONFIG.step_size) * (np.float32(reward) - utility[row])
                    visits[row] += 1
            for row in event.rows:
                utility[row], visits[row] = np.float32(0.0), 0
        slots = stored_rows(memory.arrays)
        assert len(slots) == len(memory) > 8
        assert sum(visits[row] for row in slots) > 8
        for row, slot in slots.items():
            np.testing.assert_allclose(memory.arrays.utility[slot], utility[row], atol=1e-6)
            assert memory.arrays.visits[slot] == visits[row]


@pytest.mark.parametrize("kept", [True, False], ids=["arrays kept", "arrays gone"])
def test_it_goes_on_where_it_was_closed(tmp_path, kept):
    with opened(tmp_path / "a") as memory:
        live(memory, 6)
    if not kept:
        shutil.rmtree(tmp_path / "a" / "checkpoints")
    with TextMemory.load(tmp_path / "a", HashedNgrams(64)) as memory:
        assert memory.config == CONFIG
        live(memory, 6, seed=1)
        first = digest(memory.arrays)
    with opened(tmp_path / "b") as memory:
        live(memory, 6)
        live(memory, 6, seed=1)
        assert digest(memory.arrays) == first


def test_many_threads_lose_and_double_nothing(tmp_path):
    threads, rounds, shown, lock = 4, 8, [], threading.Lock()
    with opened(tmp_path, preset("neutral", capacity=128)) as memory:

        def work(name):
            for number in range(rounds):
                found = memory.find([f"{KINDS[number % 3]} {name}"])
                memory.learn(found, [1.0], [f"note {name}/{number}"])
                with lock:
                    shown.extend(x.row for x in found[0].memories)

        workers = [threading.Thread(target=work, args=(name,)) for name in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(memory) == threads * rounds
        texts = {x.content for x in memory._log.experiences(range(len(memory)))}
        assert texts == {f"note {name}/{number}" for name in range(threads) for number in range(rounds)}
        visits, slots = np.asarray(memory.arrays.visits), stored_rows(memory.arrays)
        assert {row: int(visits[slot]) for row, slot in slots.items()} == {
            row: shown.count(row) for row in range(len(memory))
        }
        whole = digest(memory.arrays)
    shutil.rmtree(tmp_path / "checkpoints")
    with TextMemory.load(tmp_path, HashedNgrams(64)) as memory:
        assert digest(memory.arrays) == whole


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from test_text_memory import live, opened
memory = opened(sys.argv[1])
for number in range(1_000):
    live(memory, 1, seed=number)
    print(number, flush=True)
    if number == 3:
        memory.save()
"""


def test_a_kill_between_two_saves_costs_nothing(tmp_path):
    words = [sys.executable, "-c", CHILD, str(tmp_path / "a"), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 7:
                child.kill()
    with TextMemory.load(tmp_path / "a", HashedNgrams(64)) as memory:
        done = memory._log.last_event()
        assert done >= 8
        killed = digest(memory.arrays)
    with opened(tmp_path / "b") as memory:
        for number in range(done):
            live(memory, 1, seed=number)
        assert digest(memory.arrays) == killed


KILLED_AT_CALL = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_text_memory import live, opened

def kill_at(folder, at):
    calls = 0
    def hit():
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
    def count(event, arguments):
        if event.split(".")[0] in ("open", "os", "shutil") and any(folder in str(a) for a in arguments):
            hit()
    sys.addaudithook(count)
    memory = opened(folder)
    memory._log._data._connection.set_trace_callback(lambda statement: hit())
    for seed in (100, 101):
        live(memory, 1, seed)
    memory.save()
    live(memory, 1, 102)
    memory.close()

for line in sys.stdin:  # children of a process that has imported all this
    folder, at = line.rsplit(maxsplit=1)
    child = os.fork()
    if not child:
        kill_at(folder, int(at))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_call_to_the_file_system_or_sqlite_loses_nothing_committed(tmp_path):
    with opened(tmp_path / "whole") as memory:
        for seed in range(3):
            live(memory, 1, seed)
    shutil.copytree(tmp_path / "whole", tmp_path / "begun")
    with opened(tmp_path / "whole") as memory:
        expected = {3: digest(memory.arrays)}
        for number, seed in enumerate((100, 101, 102), 4):
            live(memory, 1, seed)
            expected[number] = digest(memory.arrays)
    words, seen, at = [sys.executable, "-c", KILLED_AT_CALL, str(Path(__file__).parent)], [], 1
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        while True:
            folder = tmp_path / f"at-{at}"
            shutil.copytree(tmp_path / "begun", folder)
            print(folder, at, file=parent.stdin, flush=True)
            code = int(parent.stdout.readline())
            with TextMemory.load(folder, HashedNgrams(64)) as memory:
                done = memory._log.last_event()
                assert digest(memory.arrays) == expected[done], at
                for seed in (100, 101, 102)[done - 3 :]:
                    live(memory, 1, seed)
                assert digest(memory.arrays) == expected[6], at
            assert not list(folder.glob("checkpoints/*tmp*")), at
            shutil.rmtree(folder)
            seen.append(done)
            if code == 0:
                break
            assert code == -9
            at += 1
        parent.stdin.close()
    assert seen == sorted(seen)
    assert set(seen) == {3, 4, 5, 6}
    assert at > 60


def test_what_does_not_fit_is_passed_over_and_earns_nothing(tmp_path):
    with opened(tmp_path, chars=700) as memory:
        (nothing,) = memory.find([KINDS[0]])
        assert (nothing.prompt, nothing.memories) == ("", ())
        memory.learn([nothing] * 3, [None] * 3, [word * 210 for word in "abc"])
        (found,) = memory.find([KINDS[0]])
        assert len(found.prompt) <= 700
        assert 0 < len(found.memories) < 3
        assert found.recall.rows == tuple(x.row for x in found.memories)
        memory.learn([found], [1.0], [None])
        slots = stored_rows(memory.arrays)
        assert sorted(int(memory.arrays.visits[slots[row]]) for row in range(3)) == [0] * (
            3 - len(found.memories)
        ) + [1] * len(found.memories)


def test_quarantine_hides_a_text_and_what_was_built_on_it_and_lasts(tmp_path):
    def shown(memory):
        return {x.row for x in memory.find([KINDS[0]])[0].memories}

    with opened(tmp_path) as memory:
        memory.learn(memory.find([KINDS[0]]), [1.0], ["first"])
        memory.learn(memory.find([KINDS[0]]), [1.0], ["built on the first"])
        memory.learn(memory.find([KINDS[2]]), [1.0], ["another"])
        memory.learn([memory.find([KINDS[2]])[0]._replace(intent=KINDS[0])], [1.0], ["later"], trust=0)
        assert memory.quarantine([0], why="wrong") == [0, 1]
        assert not shown(memory) & {0, 1}
    with TextMemory.load(tmp_path, HashedNgrams(64)) as memory:
        assert not shown(memory) & {0, 1}
        assert memory.quarantine([0], hide=False) == [0, 1]
        assert shown(memory) >= {0, 1}
        with pytest.raises(ConfigError, match="experience 99"):
            memory.quarantine([99])


def test_texts_of_sources_that_are_trusted_less_are_not_shown(tmp_path):
    config = preset("neutral", capacity=16, least_trust=2)
    with opened(tmp_path, config) as memory:
        memory.learn(memory.find([KINDS[0]]), [1.0], ["from anywhere"], trust=1, source="web")
        assert memory.find([KINDS[0]])[0].memories == ()
        memory.learn(memory.find([KINDS[0]]), [1.0], ["my own"])
        (found,) = memory.find([KINDS[0]])
        assert [x.content for x in found.memories] == ["my own"]


def test_wrong_lessons_are_refused_and_leave_no_trace(tmp_path):
    with opened(tmp_path) as memory:
        found = memory.find([KINDS[0]])
        for wrong, says in (
            ((found, [1.0, 1.0], ["x"]), "rewards: expected one for each of 1 tasks, got 2"),
            ((found, [1.0], []), "experiences: expected one for each of 1 tasks, got 0"),
            ((found, [float("nan")], ["x"]), "rewards: expected finite numbers, or None, got nan"),
            ((found, ["good"], ["x"]), "rewards: expected finite numbers, or None, got 'good'"),
            ((found[0], [1.0], ["x"]), "found: expected a list with one entry for each task"),
            ((found, 1.0, ["x"]), "rewards: expected a list with one entry for each task, got 1.0"),
            ((found, [1.0], "x"), "experiences: expected a list with one entry for each task, got 'x'"),
            ((found, [1.0], [3]), "experiences: expected texts, or None, got 3"),
        ):
            with pytest.raises(ConfigError, match=re.escape(says)):
                memory.learn(*wrong)
        with pytest.raises(ConfigError, match=r"intents: expected a list of texts, \[text\] for one"):
            memory.find(KINDS[0])
        with pytest.raises(ConfigError, match="intents: expected a list of texts, got None in it"):
            memory.find([None])
        assert len(memory) == 0
        memory.learn(found, [1.0], ["a note"])
        (again,) = memory.find([KINDS[0]])
        assert repr(again) == f"Found({KINDS[0]!r}, rows with their utilities {{0: +0.00}})"
    with pytest.raises(ConfigError, match="TextMemory: expected one that is open, got one that was closed"):
        memory.find([KINDS[0]])
    with pytest.raises(ConfigError, match="one that was closed"):
        memory.learn([again], [1.0], ["x"])
    memory.close()  # a second time is no mistake
    with pytest.raises(ConfigError, match=r"embedder: expected an object .*, got one without `name`"):
        TextMemory(tmp_path, print)


def test_another_owner_embedder_or_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="one of a TextMemory"):
        TextMemory.load(tmp_path / "none", HashedNgrams(64))
    with opened(tmp_path / "a") as memory:
        with pytest.raises(ConfigError, match="no other process runs in"):
            opened(tmp_path / "a")
        live(memory, 1)
    with pytest.raises(ConfigError, match="hashed-ngrams"):
        TextMemory(tmp_path / "a", HashedNgrams(64, seed=1))
    with pytest.raises(ConfigError, match=r"memory\.capacity"):
        opened(tmp_path / "a", preset("neutral", capacity=32))


def test_the_neutral_preset_names_no_benchmark():
    assert (CONFIG.unit, CONFIG.weight, CONFIG.initial_success) == ("memories", 0.5, 0.0)
    with pytest.raises(ConfigError, match="benchmark: expected none with the preset 'neutral', got 'db'"):
        preset("neutral", "db", capacity=8)


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="no examples beside the tests")
def test_the_example_gets_better_and_the_document_shows_it(tmp_path):
    spec = importlib.util.spec_from_file_location("own_loop", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    random.seed(0)
    rewards = example.main(str(tmp_path))
    first, last = (sum(reward > 0 for reward in part) for part in (rewards[:20], rewards[-20:]))
    assert last >= 18 > first
    assert EXAMPLE.read_text() in (ROOT / "docs" / "memrl.md").read_text()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[:, :32], r"shape \(2, 32\)"),
        (lambda x: x[:-1], r"shape \(1, 64\)"),
        (lambda x: x[0], r"shape \(64,\)"),
        (lambda x: x * np.nan, "NaN or infinity"),
        (lambda x: x * 0.0, "one of zeros"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_and_nothing_is_stored(tmp_path, spoil, said):
    class Spoilt(HashedNgrams):
        def embed(self, texts):
            return spoil(super().embed(texts))

    with TextMemory(tmp_path, Spoilt(64), CONFIG) as memory:
        with pytest.raises(
            ConfigError, match="embedder: expected .*(of shape \\(2, 64\\)|with a direction), got " + said
        ):
            memory.find(["one", "two"])
        assert len(memory) == 0
