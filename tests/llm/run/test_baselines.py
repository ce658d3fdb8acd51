"""The comparisons of MemRL, against a scripted model: what each shows, writes and asks."""

import json

import pytest
from language_case import ScriptedChat, benchmark, config, embedder

from memjax.llm.run.baselines import parse_facts
from memjax.llm.run.log import ExperienceLog
from memjax.llm.run.loop import run_language
from memjax.llm.run.records import Experience, Recall
from memjax.llm.types import Reply


class Answering(ScriptedChat):
    """Answers requests whose instructions begin so by a function of the last message."""

    def __init__(self, **answers):
        super().__init__()
        self.answers = answers

    def complete(self, messages, **options):
        reply = super().complete(messages, **options)
        for begin, answer in self.answers.items():
            if messages[0].content.startswith(begin.replace("_", " ")):
                return Reply(answer(messages[-1].content), 9, 2)
        return reply


def run(workdir, mode, chat=None, tasks=None, **changes):
    tasks, chat = tasks or benchmark(), chat or ScriptedChat()
    assert run_language(workdir, config(mode, **changes), tasks, chat, embedder())
    log = ExperienceLog(workdir / "experience.sqlite", embedder=embedder().name, dim=embedder().dim)
    return tasks, log


def experience(row):
    return Experience(row, "t", 0, "i", f"fact {row}", True, 1.0, Recall((), (), ()), {}, "")


def test_long_context_shows_the_newest_that_fit_and_sharing_the_newest_successes(tmp_path):
    for mode in ("long_context", "sharing"):
        _, log = run(tmp_path / mode, mode, epochs=3, inject_chars=1200)
        written, won, most = 0, [], 0
        for event in log.events():
            for recall in event.recalls:
                most = max(most, len(recall.rows))
                expected = won[::-1][:2] if mode == "sharing" else list(range(written))[::-1]
                assert list(recall.rows) == [row for row in expected if row in recall.rows]
                assert recall.rows[:1] == tuple(expected[:1])
            won += [row for row, success in zip(event.rows, event.success, strict=True) if success]
            written += len(event.rows)
        assert most == 2 if mode == "sharing" else most > 3
        log.close()


def test_the_same_content_is_written_whatever_is_shown(tmp_path):
    """One switch: with `summaries` all modes ask for a plan or a reflection, without it none does."""
    for summaries in (True, False):
        for mode in ("memrl", "memp", "rag", "long_context"):
            _, log = run(tmp_path / f"{mode}{summaries}", mode, epochs=1, summaries=summaries)
            sources = {x.provenance["source"] for x in log.experiences(range(10))}
            assert sources == ({"script", "reflection"} if summaries else {"trajectory"}), mode
            log.close()


@pytest.mark.parametrize("need", ["Yes.", "no"])
def test_self_rag_shows_what_the_model_wants(tmp_path, need):
    chat = Answering(
        You_decide_whether_notes=lambda text: need,
        You_decide_whether_a_note=lambda text: "yes" if "variant 1" in text.split("<memory>")[1] else "No",
    )
    tasks, log = run(tmp_path, "self_rag", chat, epochs=2)
    shown = [text for task in tasks.train for text in task.shown if text]
    assert bool(shown) == (need == "Yes.")
    assert all("variant 1" in text for text in shown)
    judged = [m for m in chat.asked if m[0].content.startswith("You decide whether a note")]
    offered = sum(len(recall.rows) for event in log.events() for recall in event.recalls)
    assert len(judged) == (offered if need == "Yes." else 0)
    tokens = sum(a.prompt_tokens for a in log.attempts("learn", 1).values())
    assert tokens >= 9 * len(log.attempts("learn", 1))  # what is asked before a task is counted too
    log.close()


def test_facts_are_added_updated_and_deleted(tmp_path):
    def answer(text):
        return (
            "UPDATE 1: a better fact" if "1. " in text.split("Record:")[0] else "ADD: a first fact\nand more"
        )

    changes = dict(epochs=3, memory=dict(keep=1))
    _, log = run(tmp_path, "mem0", Answering(You_keep_a_store=answer), **changes)
    removed, gone = set(), []
    for event in log.events():
        assert not removed & {row for recall in event.recalls for row in recall.rows}
        removed |= set(event.removed)
        gone += event.removed
    assert len(removed) > 5
    texts = {x.content for x in log.experiences(range(log.num_experiences()))}
    assert texts == {"a first fact\nand more", "a better fact"}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    log.close()
    run(tmp_path, "mem0", **changes)[1].close()
    assert lines == [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("reply", "text", "replaced"),
    [
        ("ADD: one\nADD: two", "one\ntwo", ()),
        ("- UPDATE 2: better\n  def f():\n    pass", "better\n  def f():\n    pass", (1,)),
        ("DELETE 1", "", (0,)),
        ("DELETE 9\nUPDATE 7: new", "new", ()),
        ("NONE", "", ()),
        ("I would add nothing.", "", ()),
    ],
)
def test_operations_are_read_from_a_reply(reply, text, replaced):
    assert parse_facts(reply, [experience(0), experience(1)]) == (text, replaced)
