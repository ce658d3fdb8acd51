"""Benchmarks that live outside of memjax."""

import pytest

from memjax.commands.remember import BenchmarkConfig
from memjax.llm.tasks import loading
from memjax.llm.tasks.loading import benchmark_entry, load, register_benchmark
from memjax.llm.types import Benchmark
from memjax.schema import parse
from memjax.types import ConfigError


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    monkeypatch.setattr(loading, "_ENTRIES", dict(loading._ENTRIES))


def load_riddles(folder, *, limit=None, seed=0, hints=False, words=3, helper=print):
    return Benchmark("riddles", (), (), {"folder": folder, "limit": limit, "hints": hints, "words": words})


def section(**options):
    values: dict = {"name": "riddles", "folder": "f", "limit": None, "seed": 0, "options": options}
    values |= {"judge_max_tokens": 9, "judge_temperature": 0.0, "allow_weak_sandbox": False}
    return parse(BenchmarkConfig, values, "benchmark")


def test_a_registered_benchmark_is_loaded_with_its_options():
    with pytest.raises(ConfigError, match=r"benchmark\.name: expected one of alfworld"):
        section()
    register_benchmark("riddles", load_riddles)
    register_benchmark("riddles", load_riddles)  # a module may be imported twice
    assert benchmark_entry("riddles").options == {"hints": False, "words": 3}
    assert section(hints=True).options == {"hints": True}
    assert load("riddles", "f", limit=2, hints=True).about == dict(folder="f", limit=2, hints=True, words=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hint": True}, r"options\.hint: expected one of hints, words \(did you mean 'hints'\?\)"),
        ({"words": "many"}, r"options\.words: expected int"),
        ({"helper": "print"}, r"options\.helper"),
    ],
)
def test_options_that_a_loader_has_not_are_refused(options, says):
    register_benchmark("riddles", load_riddles)
    with pytest.raises(ConfigError, match=says):
        section(**options)


@pytest.mark.parametrize(
    ("argument", "field"),
    [
        ("words", "benchmark.options.words"),
        ("limit", "benchmark.limit"),
        ("folder/riddles.txt", "folder/riddles.txt"),
    ],
)
def test_an_argument_that_a_loader_refuses_is_told_as_the_field_of_a_config(argument, field):
    def load_refusing(folder, *, limit=None, seed=0, words=3):
        raise ConfigError(argument, "something else", "this")

    register_benchmark("refusing", load_refusing)
    with pytest.raises(ConfigError) as caught:
        load("refusing", "f", limit=2, seed=1, words=7)
    assert str(caught.value) == f"{field}: expected something else, got this"


def test_a_name_is_taken_once_and_options_are_the_loaders():
    with pytest.raises(ConfigError, match="a name that is not taken"):
        register_benchmark("hle", load_riddles)
    with pytest.raises(ConfigError, match="option 'helper' of riddles"):
        register_benchmark("riddles", load_riddles, options=["helper"])
    register_benchmark("riddles", load_riddles, options=["words"])
    assert benchmark_entry("riddles").options == {"words": 3}
