"""Files of memories made of published data are ones that a run can import."""

import json

import pytest
from scripted import shared

from experiments.imported_memories import main
from memjax.llm.run.imported import ImportedConfig, load_imported


@pytest.mark.parametrize(
    ("kind", "which", "folder", "most"),
    [
        ("references", "lifelong_db", "lifelongagentbench", 361),
        ("references", "humaneval", "humaneval", 164),
        ("reflexion", "3", "agent_memories/reflexion_alfworld", 200),
    ],
)
def test_published_memories_can_be_imported(tmp_path, kind, which, folder, most):
    pytest.importorskip("sqlglot")
    out = tmp_path / "memories.jsonl"
    assert main([kind, which, str(shared(folder)), f"--out={out}"]) == 0
    memories = load_imported(ImportedConfig(str(out), None, 0.33, 0))
    assert 20 < len(memories) <= most
    assert sum(x.spoiled for x in memories) == round(0.33 * len(memories))
    assert {x.success for x in memories} == ({True, False} if kind == "reflexion" else {True})


def test_walkthroughs_are_commands_in_their_order(tmp_path):
    game = tmp_path / "json_2.1.1" / "train" / "pick-Cup" / "trial_1"
    game.mkdir(parents=True)
    rule = '"task": [ { "rhs": "Your task is to: take a cup." } ]'
    about = {"grammar": rule, "solvable": True, "walkthrough": ["go to desk 1", "take cup 1"]}
    (game / "game.tw-pddl").write_text(json.dumps(about))
    (game / "traj_data.json").write_text(json.dumps({"task_type": "pick_and_place_simple"}))
    out = tmp_path / "memories.jsonl"
    assert main(["walkthroughs", "train", str(tmp_path), f"--out={out}"]) == 0
    (memory,) = load_imported(ImportedConfig(str(out), None, 0.0, 0))
    assert (memory.intent, memory.text) == ("take a cup.", "> go to desk 1\n> take cup 1")
