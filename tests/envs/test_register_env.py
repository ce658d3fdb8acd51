"""Environments of one's own: named like any other, refused where their id or what they give is wrong."""

import jax.numpy as jnp
import pytest

from memjax import envs
from memjax.envs import backend_of, layout, make_env, make_host_env, register_env, spec_of
from memjax.envs.checks import check_options
from memjax.types import ConfigError, Discrete, Env, EnvSpec

ID = "mine/Line-v0"


@pytest.fixture(autouse=True)
def _own_table(monkeypatch):
    monkeypatch.setattr(envs, "_REGISTERED", {})


def line(options):
    """Never steps: only its description counts here."""
    check_options(options, {"length": 5})
    spec = EnvSpec(ID, (options.get("length", 5),), "float32", Discrete(2), 10, False)
    return Env(spec, init=lambda key, batch: (), step=lambda state, actions, key: (state, jnp.zeros(())))


def test_a_registered_environment_is_found_by_its_id():
    register_env(ID, line)
    assert backend_of(ID) == "jax"
    assert spec_of(ID, {"length": 7}).observation_shape == (7,)
    assert make_env(ID, options={}).spec.id == ID
    assert layout(ID, {}) is None
    with pytest.raises(ConfigError, match=r"env.options.lenght: .*did you mean 'length'"):
        spec_of(ID, {"lenght": 7})
    with pytest.raises(ConfigError, match="did you mean 'mine/Line-v0'"):
        spec_of("mine/Line-v1", {})
    with pytest.raises(ConfigError, match=r"env.id: expected an environment of envpool, got 'mine"):
        make_host_env(ID, num_envs=1, seed=0, options={})


@pytest.mark.parametrize(
    "id", ["Line-v0", "memjax/Line-v0", "envpool/Line-v0", "/Line", "mine/", "my own/x", ""]
)
def test_an_id_of_another_form_is_refused(id):
    with pytest.raises(ConfigError, match=r"^register_env: id: expected PREFIX/NAME"):
        register_env(id, line)


def test_an_id_is_taken_once_and_by_a_function():
    with pytest.raises(ConfigError, match=r"make: expected a function \(options\) -> Env, got 3"):
        register_env(ID, 3)
    register_env(ID, line)
    with pytest.raises(ConfigError, match="an id that no environment has, got 'mine/Line-v0'"):
        register_env(ID, line)


def test_what_its_function_gives_is_checked():
    register_env("mine/Other-v0", line)  # its spec has another id
    register_env("mine/None-v0", lambda options: None)
    register_env("mine/Broken-v0", lambda options: options["size"])
    with pytest.raises(ConfigError, match=r"spec.id is 'mine/Other-v0', got 'mine/Line-v0'"):
        make_env("mine/Other-v0", options={})
    with pytest.raises(ConfigError, match="got NoneType"):
        make_env("mine/None-v0", options={})
    with pytest.raises(ConfigError, match=r"env.options: .*mine/Broken-v0 .* KeyError: 'size'"):
        make_env("mine/Broken-v0", options={})


def test_an_environment_written_for_gymnax_becomes_one():
    gymnax = pytest.importorskip("gymnax")
    from memjax.envs.gymnax_adapter import from_gymnax

    def catch(options):
        check_options(options, {})
        return from_gymnax("mine/Catch-v0", *gymnax.make("Catch-bsuite"))

    register_env("mine/Catch-v0", catch)
    spec = spec_of("mine/Catch-v0", {})
    assert spec == spec_of("gymnax/Catch-bsuite", {})._replace(id="mine/Catch-v0")
