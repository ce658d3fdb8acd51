import contextlib
import copy
import dataclasses
import json
import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax.config_file import load_config
from memjax.runs.same_run import differences
from memjax.training.config import resolve
from memjax.types import ConfigError

# (override, start of the message)
BAD_OVERRIDES = [
    ("sede=1", "sede: expected a known field (did you mean 'seed'?)"),
    ("agnet.k=1", "agnet.k: expected a known field (did you mean 'agent'?)"),
    (
        "agent.learning_rat=1",
        "agent.learning_rat: expected a known field (did you mean 'agent.learning_rate'?)",
    ),
    ("run.total_step=1", "run.total_step: expected a known field (did you mean 'run.total_steps'?)"),
    ("env.num_env=1", "env.num_env: expected a known field (did you mean 'env.num_envs'?)"),
    ("agent=stub", "agent: expected one field of that section"),
    ("seed.x=1", "seed.x: expected seed to be a section of fields"),
    ("seed=one", "seed: expected int, got 'one'"),
    ("seed=1.5", "seed: expected int, got '1.5'"),
    ("seed=", "seed: expected int, got ''"),
    ("seed=-1", "seed: expected int within [0, "),
    ("seed=True", "seed: expected int, got 'True'"),
    ("seed=nan", "seed: expected int, got 'nan'"),
    ("seed=inf", "seed: expected int, got 'inf'"),
    ("seed=None", "seed: expected int, got None"),
    ("seed=4294967296", "seed: expected int within"),
    ("num_seeds=0", "num_seeds: expected int >= 1, got 0"),
    ("num_seeds=-3", "num_seeds: expected int >= 1, got -3"),
    ("experiment=None", "experiment: expected str, got None"),
    ("env.num_envs=0", "env.num_envs: expected int >= 1, got 0"),
    ("env.num_envs=-8", "env.num_envs: expected int >= 1, got -8"),
    ("env.num_envs=None", "env.num_envs: expected int, got None"),
    ("env.id=memjax/Stab", "env.id: expected a known environment (did you mean 'memjax/Stub'?)"),
    ("env.id=None", "env.id: expected str, got None"),
    ("env.options.sice=4", "env.options.sice: expected a known option (did you mean 'size'?)"),
    ("agent.name=stubb", "agent.name: expected one of ppo, stub (did you mean 'stub'?), got 'stubb'"),
    ("agent.name=xyzzy", "agent.name: expected one of ppo, stub, got 'xyzzy' (--import adds your own)"),
    ("agent.name=None", "agent.name: expected one of ppo, stub"),
    ("agent.learning_rate=fast", "agent.learning_rate: expected float, got 'fast'"),
    ("agent.learning_rate=0", "agent.learning_rate: expected float > 0, got 0.0"),
    ("agent.learning_rate=-1e-3", "agent.learning_rate: expected float > 0, got -0.001"),
    ("agent.learning_rate=nan", "agent.learning_rate: expected a finite number, got nan"),
    ("agent.learning_rate=inf", "agent.learning_rate: expected a finite number, got inf"),
    ("agent.learning_rate=None", "agent.learning_rate: expected float, got None"),
    ("agent.step_size=1.01", "agent.step_size: expected float within [0, 1], got 1.01"),
    ("agent.step_size=-0.1", "agent.step_size: expected float within [0, 1], got -0.1"),
    ("agent.threshold=high", "agent.threshold: expected float, got 'high'"),
    ("agent.threshold=1e999", "agent.threshold: expected a finite number, got inf"),
    ("agent.hidden=16,4294967296", "agent.hidden[1]: expected a number within 32 bits, got 4294967296"),
    ("agent.hidden=16,a", "agent.hidden: expected int, got 'a'"),
    ("agent.hidden=16,0", "agent.hidden[1]: expected int >= 1, got 0"),
    ("agent.hidden=16,-4", "agent.hidden[1]: expected int >= 1, got -4"),
    ("agent.hidden=16,1.5", "agent.hidden: expected int, got '1.5'"),
    ("agent.hidden=None", "agent.hidden: expected a tuple of int >= 1, got None"),
    ("agent.evict=fifoo", "agent.evict: expected one of 'fifo', 'lru' (did you mean 'fifo'?), got 'fifoo'"),
    ("agent.evict=None", "agent.evict: expected one of 'fifo', 'lru'"),
    ("agent.normalize=yes", "agent.normalize: expected bool, got 'yes'"),
    ("agent.normalize=1", "agent.normalize: expected bool, got '1'"),
    ("agent.normalize=None", "agent.normalize: expected bool, got None"),
    ("agent.capacity=0", "agent.capacity: expected int >= 1, got 0"),
    ("agent.k=33", "agent.k: expected int <= capacity (32), got 33"),
    ("agent.k=0", "agent.k: expected int >= 1, got 0"),
    ("agent.minibatches=5", "agent.minibatches: expected a divisor of the batch 32, got 5"),
    ("agent.rollout_steps=0", "agent.rollout_steps: expected int >= 1, got 0"),
    ("run.total_steps=0", "run.total_steps: expected int >= 1, got 0"),
    (
        "run.total_steps=1000000000000",
        "run.total_steps: expected at most 68,719,476,608, as iterations are counted in 32 bits, got 1,000",
    ),
    ("num_seeds=2147483649", "num_seeds: expected at most 2,147,483,648 seeds from 0"),
    ("run.total_steps=-1", "run.total_steps: expected int >= 1, got -1"),
    ("run.total_steps=1e-3", "run.total_steps: expected int, got '1e-3'"),
    ("run.eval_every=-1", "run.eval_every: expected int >= 0, got -1"),
    ("run.eval_every=3", "run.eval_every: expected a multiple of log_every (4), got 3"),
    ("run.checkpoint_every=9", "run.checkpoint_every: expected a multiple of log_every (4), got 9"),
    ("run.eval_episodes=0", "run.eval_episodes: expected int >= 1, got 0"),
    ("run.eval_envs=0", "run.eval_envs: expected int >= 1, got 0"),
    ("run.keep_checkpoints=0", "run.keep_checkpoints: expected int >= 1, got 0"),
    ("run.log_every=0", "run.log_every: expected int >= 1, got 0"),
    ("run.stop_on_nan=2", "run.stop_on_nan: expected bool, got '2'"),
    ("run.pools=3", "run.pools: expected a divisor of env.num_envs (4), got 3"),
]

# (path to a field, value put there by a config file, start of the message); ... removes the field
BAD_VALUES = [
    ("seed", True, "seed: expected int, got True"),
    ("seed", 1.0, "seed: expected int, got 1.0"),
    ("seed", ..., "seed: expected int within"),
    ("experiment", 3, "experiment: expected str, got 3"),
    ("env", ..., "env: expected"),
    ("env", 3, "env: expected a section of fields, got 3"),
    ("env.num_envs", True, "env.num_envs: expected int, got True"),
    ("env.num_envs", "8", "env.num_envs: expected int, got '8'"),
    ("env.options", None, "env.options: expected a section of fields, got None"),
    ("env.id", ..., "env.id: expected str, got nothing"),
    ("agent", None, "agent: expected a section of fields, got None"),
    ("agent.name", ..., "agent.name: expected one of ppo, stub, got nothing"),
    ("agent.name", ("stub",), "agent.name: expected one of ppo, stub"),
    ("agent.k", ..., "agent.k: expected int >= 1, got nothing"),
    ("agent.k", True, "agent.k: expected int, got True"),
    ("agent.kk", 3, "agent.kk: expected a known field (did you mean 'k'?)"),
    ("agent.hidden", 16, "agent.hidden: expected a tuple of int >= 1, got 16"),
    ("agent.hidden", (16, True), "agent.hidden[1]: expected int, got True"),
    ("agent.learning_rate", math.nan, "agent.learning_rate: expected a finite number, got nan"),
    ("agent.learning_rate", "1e-3", "agent.learning_rate: expected float, got '1e-3'"),
    ("agent.normalize", 1, "agent.normalize: expected bool, got 1"),
    ("run.log_every", ..., "run.log_every: expected int >= 1, got nothing"),
    ("run.extra", 1, "run.extra: expected"),
    ("extra", {}, "extra: expected"),
]


def good(config_file, *overrides):
    return load_config(str(config_file), [tuple(o.split("=", 1)) for o in overrides])


@pytest.mark.parametrize(("override", "message"), BAD_OVERRIDES, ids=[o for o, _ in BAD_OVERRIDES])
def test_wrong_override_is_refused_with_field_and_nearest_name(config_file, registries, override, message):
    with pytest.raises(ConfigError) as error:
        resolve(good(config_file, override), **registries)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"), BAD_VALUES, ids=[f"{f}={v}" for f, v, _ in BAD_VALUES]
)
def test_wrong_config_file_is_refused(config_file, registries, field, value, message):
    values = good(config_file).to_dict()
    *sections, name = field.split(".")
    node = values
    for section in sections:
        node = node[section]
    node.pop(name, None) if value is ... else node.update({name: value})
    with pytest.raises(ConfigError) as error:
        resolve(values, **registries)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{dir}/stob.py", "--config: expected a config file FILE.py or FILE.py:VARIANT (did you mean"),
        ("{dir}/stub.py:smok", "--config: expected no variant or 'smoke', got 'smok'"),
        ("{dir}/stub", "--config: expected a config file"),
        ("{dir}", "--config: expected a config file"),
        ("", "--config: expected a config file"),
        ("{dir}/syntax.py", "--config: expected get_config('') of"),
        ("{dir}/nothing.py", "--config: expected get_config('') of"),
        ("{dir}/dict.py", "--config: expected get_config of"),
        ("{dir}/plain.py:smoke", "--config: expected get_config('smoke') of"),
    ],
)
def test_wrong_file_is_refused(config_file, source, message):
    (config_file.parent / "syntax.py").write_text("def get_config(: pass")
    (config_file.parent / "nothing.py").write_text("x = 1")
    (config_file.parent / "dict.py").write_text("def get_config(): return {}")
    (config_file.parent / "plain.py").write_text("def get_config(): return 1 / 0")
    with pytest.raises(ConfigError) as error:
        load_config(source.format(dir=config_file.parent))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=1_000", "seed", 1000),
        ("run.total_steps=1e6", "run.total_steps", 1_000_000),
        ("agent.learning_rate=3", "agent.learning_rate", 3.0),
        ("agent.hidden=8,4", "agent.hidden", (8, 4)),
        ("agent.hidden=(8,)", "agent.hidden", (8,)),
        ("agent.hidden=", "agent.hidden", ()),
        ("agent.normalize=false", "agent.normalize", False),
        ("agent.threshold=0.25", "agent.threshold", 0.25),
        ("agent.threshold=2", "agent.threshold", 2.0),
        ("agent.threshold=None", "agent.threshold", None),
        ("experiment=none", "experiment", "none"),
        ("env.options.size=7", "env.options.size", 7),
    ],
)
def test_override_is_read_by_the_type_that_stands_there(config_file, registries, override, path, value):
    node = resolve(good(config_file, override), **registries)
    for part in path.split("."):
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    assert (type(node), node) == (type(value), value)


def test_numbers_of_64_bits_are_refused_before_anything_is_compiled(config_file, registries):
    with jax.enable_x64(True), pytest.raises(ConfigError, match=r"JAX_ENABLE_X64.*: expected off"):
        resolve(good(config_file), **registries)


def test_resolved_config_derives_and_is_frozen(config_file, registries):
    config = resolve(load_config(f"{config_file}:smoke"), **registries)
    assert config.steps_per_iteration == 4 * 8
    assert config.iterations == 2
    assert resolve(good(config_file, "run.total_steps=65"), **registries).iterations == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


def test_raw_resolves_to_the_same_config(config_file, registries):
    config = resolve(good(config_file), **registries)
    again = resolve(json.loads(json.dumps(config.raw)), **registries)
    assert again == config
    assert not differences(config.raw, again.raw)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("seed=1", "seed"),
        ("num_seeds=3", "num_seeds"),
        ("agent.learning_rate=0.1", "agent.learning_rate"),
        ("agent.name=ppo", "agent.name"),
        ("agent.hidden=16", "agent.hidden"),
        ("agent.threshold=0.5", "agent.threshold"),
        ("env.options.size=4", "env.options.size"),
        ("run.total_steps=4095", "run.total_steps"),
        ("run.checkpoint_every=4", "run.checkpoint_every"),
        ("run.total_steps=4097", None),
        ("run.keep_checkpoints=9", None),
    ],
)
def test_what_makes_another_run(config_file, registries, override, field):
    stored, new = (resolve(good(config_file, *o), **registries).raw for o in ([], [override]))
    assert [name for name, _, _ in differences(stored, new)] == ([field] if field else [])


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
)
NESTED = st.recursive(
    PLAIN, lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5
)
PATHS = [
    "seed",
    "env",
    "env.id",
    "env.num_envs",
    "env.options",
    "agent",
    "agent.name",
    "agent.k",
    "agent.hidden",
    "run",
]


@given(path=st.sampled_from(PATHS), value=NESTED)
def test_any_value_anywhere_is_accepted_or_refused(config_values, registries, path, value):
    values = copy.deepcopy(config_values)
    *sections, name = path.split(".")
    node = values
    for section in sections:
        node = node[section]
    node[name] = value
    with contextlib.suppress(ConfigError):
        raw = resolve(values, **registries).raw
        assert resolve(json.loads(json.dumps(raw, allow_nan=False)), **registries).raw == raw


def test_config_is_not_changed_by_resolve(config_file, registries):
    config = good(config_file)
    before = config.to_dict()
    resolve(config, **registries)
    assert config.to_dict() == before
    assert config.is_locked


def test_an_empty_variant_is_none(config_file):
    assert load_config(f"{config_file}:").to_dict() == load_config(str(config_file)).to_dict()
