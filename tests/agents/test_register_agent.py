"""Agents of one's own: one table, and what may stand in it."""

from dataclasses import dataclass

import pytest

from memjax import agents
from memjax.agents import AGENTS, register_agent
from memjax.schema import Fraction, PositiveInt
from memjax.types import ConfigError


@pytest.fixture(autouse=True)
def _own_table(monkeypatch):
    monkeypatch.setattr(agents, "AGENTS", dict(AGENTS))


@dataclass(frozen=True)
class Inner:
    share: Fraction


@dataclass(frozen=True)
class Section:
    rollout_steps: PositiveInt
    inner: Inner
    widths: tuple[int, ...]
    threshold: float | None


@dataclass(frozen=True)
class Strange:
    rollout_steps: PositiveInt
    place: complex


@dataclass(frozen=True)
class Endless:
    share: Fraction


def make(section, spec, number):
    raise NotImplementedError


def test_a_registered_agent_stands_in_the_table():
    register_agent("mine", config=Section, make=make)
    assert agents.AGENTS["mine"] == (Section, make, "rollouts", False)
    with pytest.raises(ConfigError, match="name: expected a name that no agent has, got 'mine'"):
        register_agent("mine", config=Section, make=make)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "ppo"}, "register_agent: name: expected a name that no agent has, got 'ppo'"),
        ({"name": ""}, "register_agent: name: "),
        ({"learns_from": "tables"}, "learns_from: expected 'rollouts' or 'windows', got 'tables'"),
        ({"config": dict}, "dict: expected a dataclass"),
        ({"config": Strange}, "Strange.place: expected an annotation that memjax.schema describes"),
        ({"config": Endless}, "Endless: expected a field or property rollout_steps, as 'mine' learns from"),
        ({"learns_from": "windows"}, "Section: expected a field or property batch"),
        ({"make": None}, "register_agent: make: expected a function that builds the agent, got None"),
    ],
)
def test_what_is_no_agent_is_refused(changes, message):
    arguments = {"name": "mine", "config": Section, "make": make} | changes
    with pytest.raises(ConfigError) as error:
        register_agent(arguments.pop("name"), **arguments)
    assert message in str(error.value)
    assert "mine" not in agents.AGENTS


def test_every_agent_of_memjax_could_be_registered():
    for name, entry in AGENTS.items():
        register_agent(f"my_{name}", **entry._asdict())
