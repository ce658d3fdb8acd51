"""What a model is sent: one system message, then turns that alternate, memories among them as the user's."""

import pytest

from memjax.llm.tasks.dialogue import Dialogue
from memjax.llm.types import Message, Reply

EXAMPLES = (Message("user", "a"), Message("assistant", "b"))


@pytest.mark.parametrize("examples", [(), EXAMPLES])
@pytest.mark.parametrize("memories", ["", "<memories>\nm\n</memories>"])
def test_roles_alternate_and_memories_are_a_users_turn(memories, examples):
    sent = []

    def ask(messages):
        sent.append(list(messages))
        return Reply("said", 1, 1)

    dialogue = Dialogue(ask, "rules", memories, examples)
    dialogue.say("first")
    dialogue.say("second")
    for messages in sent:
        roles = [m.role for m in messages]
        assert roles[0] == "system"
        assert roles[1:] == (["user", "assistant"] * len(roles))[: len(roles) - 1]
        assert messages[-1].role == "user"
    holders = [m.role for m in sent[0] if memories and memories in m.content]
    assert holders == ["user"] * bool(memories)
    assert sent[1][: len(sent[0])] == sent[0]  # a server can keep what it has read
