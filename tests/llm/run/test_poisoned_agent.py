"""R20: an agent with a poisoned memory. 200 payloads, three seeds, 100 memories of honest work beside them.

The agent is simulated. It does whatever the prompt says outside of the marks of memories, and inside of them
follows the plan that most memories name; so it shows what a poisoned memory can reach, not what a model would
make of it.
"""

import random
import re

import pytest
from test_poisoning import ORDERS, PAYLOADS

from memjax.agents.memrl.config import preset
from memjax.agents.memrl.entries import TRUST
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.text_memory import TextMemory

KINDS = ("repair the lamp", "refund an order", "book a table", "sort the ledger", "water the garden")
KINDS += ("translate a letter", "clean the filter", "plan a journey", "count the stock", "paint a fence")
ATTACKS, BATCH = 200, 8
ALL = list(range(10))


def attack(number):
    """(intent, text): the task of a victim, and a plan that was never any good, in a payload's dress."""
    mark = PAYLOADS[number * (len(PAYLOADS) // ATTACKS)]
    return f"{KINDS[number % len(KINDS)]}, case {number}", f"{mark}\nplan: evil\n{ORDERS[number % 4]}"


def follow(prompt):
    """(plan, orders): what most memories name, and what is obeyed because it stands outside of them."""
    outside = re.sub(r"<memory>.*?</memory>", "", prompt, flags=re.DOTALL | re.IGNORECASE)
    orders = [each for each in ("Ignore every", "SYSTEM:", "Action:", "DROP TABLE") if each in outside]
    plans = re.findall(r"^plan: (\w+)$", prompt, flags=re.MULTILINE)
    return max(dict.fromkeys(plans), key=plans.count, default="none"), orders


def play(memory, tasks, draw, *, learns=True):
    """Plays tasks, numbers of their kinds. -> plans that were followed, orders that were obeyed"""
    plans, orders = [], []
    for start in range(0, len(tasks), BATCH):
        part = tasks[start : start + BATCH]
        found = memory.find([f"{KINDS[kind]}, case {draw.randrange(10_000)}" for kind in part])
        followed = [follow(each.prompt) for each in found]
        plans += [plan for plan, _ in followed]
        orders += [order for _, each in followed for order in each]
        if learns:
            right = [plan == f"good{kind}" for (plan, _), kind in zip(followed, part, strict=True)]
            rewards = [1.0 if each else -1.0 for each in right]
            memory.learn(found, rewards, [None] * len(part))
    return plans, orders


def fill(memory, items, **options):
    """Stores (intent, text) as successes. -> their rows"""
    rows = []
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        found = memory.find([intent for intent, _ in part])
        rows += memory.learn(found, [1.0] * len(part), [text for _, text in part], **options)
    return rows


def opened(folder, seed, **changes):
    return TextMemory(folder, HashedNgrams(32), preset("neutral", capacity=512, **changes), seed=seed)


def fill_honest(memory, draw):
    cases = [f"{KINDS[i % 10]}, case {draw.randrange(10_000)}" for i in range(100)]
    fill(memory, [(intent, f"plan: good{i % 10}") for i, intent in enumerate(cases)])
    play(memory, ALL * 4, draw)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_was_poisoned_is_outvoted_and_nothing_is_obeyed(tmp_path, seed):
    """The attacker is trusted as anyone, and twice as busy as all others.

    The settings were chosen on seed 0. With the preset's own recall of 10 and weight of 0.5 a third of the
    answers follow the poison: of ten neighbours too few are honest.
    """
    draw = random.Random(seed)
    with opened(tmp_path, seed, recall=30, weight=0.8) as memory:
        fill_honest(memory, draw)
        fill(memory, [attack(number) for number in range(ATTACKS)])
        _, obeyed = play(memory, ALL * 8, draw)
        plans, more = play(memory, ALL * 10, draw, learns=False)
        shown = [each for found in memory.find([attack(n)[0] for n in range(40)]) for each in found.memories]
    assert plans.count("evil") <= 0.05 * len(plans)
    assert obeyed + more == []
    assert any("plan: evil" in each.content for each in shown)  # they were there to be followed


def test_a_source_below_the_trust_that_is_asked_for_is_never_shown(tmp_path):
    draw = random.Random(4)
    with opened(tmp_path, 4, least_trust=TRUST) as memory:
        fill_honest(memory, draw)
        fill(memory, [attack(number) for number in range(ATTACKS)], trust=TRUST - 1)
        assert set(play(memory, ALL * 10, draw)[0]) == {f"good{kind}" for kind in ALL}


def test_what_is_quarantined_is_gone_with_all_that_was_built_on_it(tmp_path):
    draw = random.Random(5)
    with opened(tmp_path, 5) as memory:
        fill_honest(memory, draw)
        rows = fill(memory, [attack(number) for number in range(ATTACKS)])
        fill(memory, [(f"{KINDS[i % 10]}, case {i}", "plan: evil") for i in range(40)])  # as it was shown
        assert "evil" in play(memory, ALL * 4, draw, learns=False)[0]
        hidden = memory.quarantine(rows, why="poisoned")
        assert len(hidden) > len(rows)
        plans, _ = play(memory, ALL * 10, draw, learns=False)
    assert plans.count("evil") <= 0.05 * len(plans)
