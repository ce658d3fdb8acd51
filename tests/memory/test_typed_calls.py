"""What an editor and `help` know of a memory's functions: their arguments, and what is said of them."""

import importlib.util
import inspect
import json
import pydoc
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from memjax.agents.memrl.agent import make_memrl, preset
from memjax.memory import Memory, make_memory, make_sharded_memory, null_memory

PROGRAM = """
import jax.numpy as jnp
from memjax.memory import make_memory
from memjax.types import Agent, TimeStep

memory = make_memory(8, 4, jnp.zeros(2), evict="lru")
state = memory.init(seed=3)
ones = jnp.ones((2, 4))
state, slots = memory.write(state, ones, jnp.zeros((2, 2)), {write}=jnp.zeros(2))
found = memory.retrieve(state, ones, {retrieve}=slots)
state = memory.update(state, found.slots, {rewards}, found.mask, step_size=0.5)


def choose(agent: Agent, timestep: TimeStep, key: jnp.ndarray) -> jnp.ndarray:
    return agent.act((), agent.initial_carry(2), timestep, key, {policy}="greedy").action
"""
RIGHT = dict(write="utility", retrieve="exclude_group", rewards="jnp.zeros((2, 1))", policy="policy")
WRONG = dict(write="utilty", retrieve="exlude_group", rewards="'1.0'", policy="polcy")
PARTS = [name for name, kind in Memory.__annotations__.items() if kind is not int]
VALUE = jnp.zeros(2)


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_a_type_checker_reports_a_misspelt_keyword(tmp_path):
    for name, words in {"right": RIGHT, "wrong": WRONG}.items():
        (tmp_path / f"{name}.py").write_text(PROGRAM.format(**words))
    settings = {"extraPaths": [str(Path(__file__).parents[2])], "typeCheckingMode": "basic"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "-p",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {(Path(each["file"]).stem, each["message"].splitlines()[0]) for each in found}
    assert errors == {
        ("wrong", 'No parameter named "utilty"'),
        ("wrong", 'No parameter named "exlude_group"'),
        ("wrong", 'No parameter named "polcy"'),
        ("wrong", next(message for _, message in errors if "rewards" in message)),
    }


def bundles():
    mesh = jax.make_mesh((1,), ("slots",))
    yield make_memory(8, 4, VALUE, evict="fifo")
    yield null_memory(4, VALUE)
    yield make_sharded_memory(mesh, "slots", 8, 4, VALUE, evict="lru")


@pytest.mark.parametrize("part", PARTS)
def test_help_shows_the_arguments_and_what_they_are(part):
    for memory in bundles():
        function = getattr(memory, part)
        arguments = [x for x in inspect.signature(function).parameters if x != "seed"]
        text = pydoc.render_doc(function, renderer=pydoc.plaintext)
        assert text.splitlines()[2].startswith(f"{part}(")
        assert "self" not in inspect.signature(function).parameters
        assert "policy" not in text.splitlines()[2], "what the factory has bound"
        for argument in arguments:
            assert f"\n        {argument}: " in text, f"{part} says nothing of {argument}"


def test_help_of_a_write_says_shapes():
    text = pydoc.render_doc(make_memory(8, 4, VALUE, evict="fifo").write, renderer=pydoc.plaintext)
    for said in ("keys: [B, D]", "slots [B] i32", "mask: [B] bool", "Raises:"):
        assert said in text


@pytest.mark.parametrize("part", ["retrieve", "credit", "insert", "learn", "quarantine"])
def test_help_of_memrl(part):
    memrl = make_memrl(preset("paper", "hle", capacity=8), 4, VALUE)
    text = pydoc.render_doc(getattr(memrl, part), renderer=pydoc.plaintext)
    assert "Args:" in text
    assert "config" not in text.splitlines()[2]


def test_the_functions_are_fit_for_jit():
    """Hashable, equal to themselves alone, compiled once, with arguments by name or by place."""
    memory = make_memory(8, 4, VALUE, evict="fifo")
    assert len({memory.write, memory.write, memory.retrieve}) == 2
    compiled = jax.jit(memory.sample, static_argnames="n")
    compiled(memory.init(), jax.random.key(0), n=3)
    compiled(memory.init(), jax.random.key(1), n=3)
    assert compiled._cache_size() == 1
    donated = jax.jit(memory.write, donate_argnums=0)
    state, _ = donated(memory.init(), keys=jnp.ones((1, 4)), values=jnp.zeros((1, 2)))
    assert int(state.count) == 1
    read = jax.jit(partial(memory.retrieve, exclude_group=jnp.array([0])))
    assert bool(read(state, jnp.ones((1, 4))).mask.all())
