"""The batching server: what it answers is what the model writes alone."""

import copy
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the server's, no dependency: pip install torch transformers")
transformers = pytest.importorskip("transformers", reason="the server's, no dependency")
sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "launch"))

ENDS = list(range(40))  # so many that some replies end early


@pytest.fixture(scope="module")
def alone():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=500,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        eos_token_id=ENDS,
        pad_token_id=0,
    )
    net = transformers.Qwen2ForCausalLM(config).float().eval()
    for weight in net.parameters():
        weight.data.mul_(4.0 if weight.dim() > 1 else 1.0)  # so that replies differ
    return net


@pytest.fixture(scope="module")
def engine(alone):
    from batched_model import Engine  # type: ignore[import-not-found]
    from batched_slots import Model, Slots  # type: ignore[import-not-found]

    model = Model(copy.deepcopy(alone), None, "cpu", set(ENDS))
    engine = Engine(model, [Slots(model, 5, 96, eager=True), Slots(model, 2, 256, eager=True)])
    threading.Thread(target=engine.run, daemon=True).start()
    return engine


def prompts():
    """Some that begin alike, some that go on, a long one, a short one."""
    draws = np.random.default_rng(0)
    head = draws.integers(60, 500, 30)
    some = [np.append(head[: draws.integers(31)], draws.integers(60, 500, 1 + i)) for i in range(25)]
    return [*some, np.append(some[0], [55, 56]), draws.integers(60, 500, 150), head[:1]]


def test_greedy_replies_in_reused_slots_are_those_of_the_model_alone(alone, engine):
    asked = prompts()
    answers = [x.result(60) for x in [engine.ask(ids, 12, 0.0, 0) for ids in asked]]
    asked += [np.append(ids, [*answer.tokens, 58]) for ids, answer in zip(asked, answers, strict=True)]
    answers += [x.result(60) for x in [engine.ask(ids, 12, 0.0, 0) for ids in asked[len(answers) :]]]
    for ids, answer in zip(asked, answers, strict=True):
        whole = alone.generate(torch.tensor(ids)[None], max_new_tokens=12, do_sample=False, eos_token_id=ENDS)
        tokens = whole[0, len(ids) :].tolist()
        ended = tokens[-1] in ENDS
        assert answer == (tokens[:-1] if ended else tokens, "stop" if ended else "length")
    assert len({tuple(answer.tokens) for answer in answers}) > len(answers) // 2
    assert {answer.finish for answer in answers} == {"stop", "length"}
    assert sum(pool.copied for pool in engine.pools) > 400


def test_a_sample_depends_on_its_seed_alone(engine):
    ids = prompts()[3]
    alone = engine.ask(ids, 12, 0.8, 1).result(60)
    engine._known.clear()
    together = [engine.ask(ids, 12, 0.8, seed) for seed in (1, 2, 3)]
    together = [x.result(60) for x in together]
    assert together[0] == alone
    assert len({tuple(x.tokens) for x in together}) == 3


def test_a_request_that_no_slot_holds_is_refused(engine):
    with pytest.raises(ValueError, match="the context holds 255"):
        engine.ask(np.zeros(250, np.int64), 12, 0.0, 0)
