"""Memories that were there before: read, spoiled, stored once, and unlearned where they lie."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest
from language_case import ScriptedChat, ScriptedTask, arrays_of, config, embedder

from memjax.llm.run.imported import Imported, ImportedConfig, load_imported, spoil
from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.loop import run_language
from memjax.llm.run.memory import stored_rows
from memjax.llm.types import Benchmark, Outcome
from memjax.runs.digest import digest
from memjax.types import ConfigError


def written(folder, text, name="memories.csv"):
    (folder / name).write_text(text)
    return ImportedConfig(str(folder / name), None, 0.0, 0)


def test_both_forms_of_a_file_say_the_same(tmp_path):
    table = 'intent,text,success,utility,source,trust\nboil,"use a\nkettle",true,,,\nboil,ice,0,-0.5,web,1\n'
    lines = [{"intent": "boil", "text": "use a\nkettle"}]
    lines += [
        {"intent": "boil", "text": "ice", "success": False, "utility": -0.5, "source": "web", "trust": 1}
    ]
    one = load_imported(written(tmp_path, table))
    other = load_imported(written(tmp_path, "\n".join(map(json.dumps, lines)), "memories.jsonl"))
    assert (
        one
        == other
        == [
            Imported("boil", "use a\nkettle", True, None, "imported", 2),
            Imported("boil", "ice", False, -0.5, "web", 1),
        ]
    )
    assert load_imported(ImportedConfig("", None, 0.0, 0)) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("intent,text\nboil,\n", "line 2: text: expected a text"),
        ("intent,text,success\na,b,perhaps\n", "line 2: success: expected true or false"),
        ("intent,text,utility\na,b,3\n", "line 2: utility: expected within"),
        ("intent,text,trust\na,b,much\n", "line 2: utility and trust: expected numbers"),
        ("intent,text,colour\na,b,red\n", "line 2: expected columns among intent, .*, got 'colour'"),
        ("Intent,text\na,b\n", r"\(did you mean 'intent'\?\), got 'Intent'"),
        ("intent,text\na,b,c\n", r"line 2: expected as many cells .*, got \['c'\] beyond"),
        ("intent,text\n", "at least one memory"),
    ],
)
def test_mistakes_name_their_line(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        load_imported(written(tmp_path, text))


def test_a_third_is_spoiled_and_still_claims_success():
    memories = [Imported(f"i{n}", f"text {n % 5}", n % 2 == 0, None, "x", 2) for n in range(30)]
    spoiled = spoil(memories, 1 / 3, random.Random(0))
    changed = [(a, b) for a, b in zip(memories, spoiled, strict=True) if a != b]
    assert len(changed) == 10
    assert all(b.spoiled and b.success and b.intent == a.intent and b.text != a.text for a, b in changed)
    assert spoil(memories, 0.0, random.Random(0)) == memories


class Recipes(ScriptedTask):
    """Solved where the memories that were shown hold the right word and no wrong one stands before it."""

    def attempt(self, ask, memories):
        words = [word for word in memories.split() if word.startswith("word-")]
        solved = words[:1] == [f"word-{self.kind}"]
        self.shown.append(memories)
        ask([])
        return Outcome(self.id, solved, float(solved), "did", "no", solution="did")


def recipes():
    """For each kind a right memory and, newer, a wrong one with the same intent, both of them successes."""
    kinds = [Recipes(number) for number in range(4)]
    right = [Imported(x.intent, f"word-{x.kind}", True, None, "book", 2) for x in kinds]
    wrong = [x._replace(text=f"word-{(n + 1) % 4}", spoiled=True) for n, x in enumerate(right)]
    return [*right, *wrong]


def rates(folder, mode, **changes):
    memory = dict(keep=1, recall=4, threshold=0.6, capacity=32)
    settings = config(mode, epochs=5, memory=memory, batch=2, **changes)
    settings = dataclasses.replace(settings, imported=ImportedConfig("given", None, 0.0, 0))
    tasks = Benchmark("recipes", [Recipes(number) for number in range(4)], [], {})
    assert run_language(folder, settings, tasks, ScriptedChat(), embedder(), imported=recipes())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return settings, lines, [line["success_rate"] for line in lines if "success_rate" in line]


def test_utilities_find_out_which_memories_lie_and_similarity_does_not(tmp_path):
    settings, lines, learned = rates(tmp_path / "memrl", "memrl")
    assert [line["memories"] for line in lines[:4]] == [2, 4, 6, 8]
    assert [line["tasks"] for line in lines[:5]] == [0, 0, 0, 0, 2]
    assert learned[-1] == 1.0
    log = ExperienceLog(tmp_path / "memrl" / "experience.sqlite", embedder=embedder().name, dim=32)
    stored = log.experiences(range(8))
    assert [x.provenance.get("spoiled", False) for x in stored] == [False] * 4 + [True] * 4
    assert next(iter(log.events())).utility == (1.0, 1.0)
    log.close()
    state, _ = arrays_of(tmp_path / "memrl", settings)
    slots, utility = stored_rows(state), np.asarray(state.utility)
    assert all(
        utility[slots[row]] < 0.5
        for row in range(8)
        if stored[row].provenance.get("spoiled") and np.asarray(state.visits)[slots[row]] > 0
    )
    _, _, similar = rates(tmp_path / "rag", "rag")
    assert similar[-1] <= 0.5
    _, nothing, _ = rates(tmp_path / "none", "none")
    assert nothing[0]["tasks"] == 2  # a mode without a memory imports nothing


def test_imported_memories_are_stored_once_and_rebuilt_from_the_log(tmp_path):
    settings, lines, _ = rates(tmp_path, "memrl")
    whole = digest(arrays_of(tmp_path, settings)[0])
    shutil.rmtree(tmp_path / "checkpoints")
    _, again, _ = rates(tmp_path, "memrl")
    assert again == lines
    assert digest(arrays_of(tmp_path, settings)[0]) == whole
    tasks = Benchmark("recipes", [Recipes(number) for number in range(4)], [], {})
    with pytest.raises(ConfigError, match="imported"):
        run_language(tmp_path, settings, tasks, ScriptedChat(), embedder(), imported=recipes()[:3])
