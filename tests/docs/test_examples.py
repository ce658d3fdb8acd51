"""The examples at a small size, each for what it claims, and the page that shows them."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from doc_blocks import ROOT, blocks

from memjax.memory import make_memory

EXAMPLES = ROOT / "examples"
PAGE = Path("docs/examples.md")
if not EXAMPLES.is_dir():
    pytest.skip("no examples beside the tests", allow_module_level=True)


def load(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_on_the_page(path):
    assert len(path.read_text().splitlines()) < 80
    assert f"examples/{path.name}" in (ROOT / PAGE).read_text()


def test_the_page_shows_what_the_files_hold_and_the_rest_runs():
    files = [path.read_text() for path in EXAMPLES.glob("*.py")]
    python = [block.text for block in blocks(PAGE) if block.language == "python"]
    pieces = {text: [textwrap.indent(text, " " * depth) for depth in (0, 4, 8)] for text in python}
    shown = [text for text in python if any(piece in file for piece in pieces[text] for file in files)]
    assert len(shown) == 6
    names = {}
    for text in python:
        if text not in shown:
            exec(compile(text, str(PAGE), "exec"), names)


def test_the_twenty_lines_come_back_from_disk(tmp_path):
    before, after = load("memory_in_twenty_lines").main(tmp_path / "memory", capacity=200, width=8)
    assert int(before.valid.sum()) == 128
    rewarded = np.asarray(before.utility)[np.asarray(before.visits) == 1]
    np.testing.assert_allclose(rewarded, 0.5 + 0.1 * (1.0 - 0.5), rtol=1e-6)
    assert rewarded.size > 0
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_episodic_control_asks_a_known_state_and_its_neighbours():
    memory = make_memory(4, 2, (), evict="lru", k=3, metric="l2")
    worth = jax.jit(partial(load("mfec").worth, memory))
    keys = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    assert jnp.isinf(worth(memory.init(), keys)).all()
    state, _ = memory.write(memory.init(), keys, (), utility=jnp.array([3.0, 5.0]))
    assert worth(state, keys).tolist() == [3.0, 5.0]
    assert worth(state, keys + 1.0).tolist() == [4.0, 4.0]


def test_episodic_control_learns(capsys):
    main = partial(load("mfec").main, rounds=8, limit=100, capacity=1_000, width=8)
    random, learned, history = jax.jit(main)()
    jax.effects_barrier()
    rounds = [f"round {i + 1} of 8: return {value:.1f}" for i, value in enumerate(np.asarray(history))]
    assert capsys.readouterr().out.splitlines() == rounds
    assert random < 30
    assert learned > 2 * random
    assert history[-3:].mean() > 1.5 * history[0]


def test_a_loop_over_gymnasium_learns():
    history = load("gymnasium_loop").main(episodes=60, limit=100)
    assert np.mean(history[-15:]) > 2 * np.mean(history[:15])


def test_neural_episodic_control_is_one_program():
    sizes = dict(rounds=3, limit=6, capacity=8, k=2, width=2, n=2, updates=2)
    for task in ("gymnax/CartPole-v1", "gymnax/Breakout-MinAtar"):
        assert jax.eval_shape(partial(load("nec").main, task, **sizes)).shape == (3,)


@pytest.mark.slow
def test_neural_episodic_control_learns():
    history = load("nec").main(rounds=20)
    assert history[0] < 40  # all actions random
    assert history[-5:].mean() > 120


def test_another_process_remembers_and_shards_agree(tmp_path):
    """One process for two examples: the memory of this one, and 4 simulated devices."""
    sizes = dict(entries=2_000, width=16)
    many = load("many_embeddings")
    many.TOPICS = 20
    many.learn(str(tmp_path / "embeddings"), **sizes, rounds=20, batch=64)
    program = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import many_embeddings, sharded
many_embeddings.TOPICS = 20
print("helped", many_embeddings.ask({str(tmp_path / "embeddings")!r}, **{sizes!r}, batch=64))
print("alike", sharded.main(capacity=256, width=4))
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 devices" in done.stdout
    assert re.search(r"alike \[(True, )+True\]", done.stdout), done.stdout
    (helped,) = re.findall(r"helped ([\d.]+)", done.stdout)
    assert float(helped) > 0.7  # of all texts, one in seven helps


def test_ppo_with_a_memory_runs(capsys):
    small = partial(load("ppo_with_memory").main, updates=2, envs=2, steps=8, epochs=1, parts=2)
    goals = jax.jit(jax.vmap(small))(jnp.arange(2))
    assert goals.tolist() == [[0, 0], [0, 0]]  # of 16 steps, where the goal is 80 away
    jax.effects_barrier()
    seen = capsys.readouterr().out.splitlines()
    assert seen == ["bonus 1.0: update 1 of 2", "bonus 1.0: update 2 of 2"]  # once for all seeds


@pytest.mark.slow
def test_the_memory_of_ppo_finds_the_goal_earlier():
    ppo = load("ppo_with_memory")
    plain, rewarded = (
        jax.vmap(partial(ppo.main, bonus=bonus, updates=15))(jnp.arange(4)) for bonus in (0.0, 1.0)
    )
    assert (rewarded > 0).any(axis=1).sum() >= 3 > (plain > 0).any(axis=1).sum()
    assert rewarded.sum() > 10 * plain.sum()
