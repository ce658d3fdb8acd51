"""Every shipped experiment, as a user would name it on the command line."""

import functools
import json

import numpy as np
import pytest

from memjax.config_file import find_config, load_config, shipped_configs
from memjax.configs.reframe_reads import FORMER_READ_OUT
from memjax.envs import spec_of
from memjax.runs.metrics import read_metrics
from memjax.runs.same_run import differences
from memjax.training.config import resolve
from memjax.training.program import round_up
from memjax.training.train import train

NOT_TRAINED = ("language",)  # tests/commands/test_remember.py has those of `memjax remember`
FILES = [name for name in shipped_configs() if name not in NOT_TRAINED]
VARIANTS = {name: sorted(find_config(name)[0].VARIANTS) for name in FILES}
ALL = [(name, variant) for name in FILES for variant in VARIANTS[name]]


def resolved(name, variant="", **overrides):
    source = f"{name}:{variant}" if variant else name
    values = load_config(source, [(k.replace("__", "."), str(v)) for k, v in overrides.items()])
    return resolve(values, spec_of=game_spec if name == "atari" else None)


def game_spec(id, options):
    """That of one game, under the name of another: envpool takes a fifth of a second to describe each."""
    assert id in games()
    return one_game(tuple(sorted(options.items())))._replace(id=id)


@functools.cache
def games():
    return {f"envpool/{name}" for name in pytest.importorskip("envpool").list_all_envs()}


@functools.cache
def one_game(options):
    return spec_of("envpool/Pong-v5", dict(options))


@pytest.mark.parametrize("name", FILES)
def test_a_config_says_what_it_is(name):
    text = find_config(name)[0].__doc__
    assert "Source:" in text
    assert text.index(f"memjax train --config={name}")
    config = resolved(name)
    assert config.experiment == name
    assert config.run.total_steps > resolved(name, "smoke").run.total_steps


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_a_variant_resolves_alone_and_small(name, variant):
    whole = resolved(name, variant)
    assert whole.iterations > 0
    if variant != "smoke":
        both = resolved(name, f"{variant}+smoke")
        assert both.agent_name == whole.agent_name
        assert both.env.id == whole.env.id
        assert both.run.total_steps <= whole.run.total_steps


@pytest.mark.parametrize("name", [name for name in FILES if resolved(name).agent_name == "adamemento"])
def test_the_baselines_share_the_hyper_parameters_of_ppo(name):
    own = resolved(name).raw["agent"]["ppo"]
    for variant, kind in (("ppo", "none"), ("rnd", "rnd")):
        agent = resolved(name, variant).raw["agent"]
        assert agent.pop("name") == "ppo"
        # RND's input statistics keep moving, as published, where those of a frozen code stand still.
        moving = {"standardize_rollouts": 0} if kind == "rnd" else {}
        assert agent["novelty"] == own["novelty"] | {"kind": kind} | moving
        assert {k: v for k, v in agent.items() if k != "novelty"} == {
            k: v for k, v in own.items() if k != "novelty"
        }


def test_atari_is_sticky_and_keeps_single_frames():
    config = resolved("atari", "Pong")
    assert config.env.id == "envpool/Pong-v5"
    assert config.env.options["repeat_action_probability"] == 0.25
    assert config.agent.bank.last_frame
    assert config.agent.bank.key_dim > 0


def test_runs_of_the_former_default_of_reframe_go_on_as_its_literal_read():
    """Of what a stored config of that time has, all is set that has changed since."""
    literal, default = resolved("reframe", "literal").raw, resolved("reframe").raw
    read, trust = literal["agent"]["read"], literal["agent"]["trust"]
    assert (read["kind"], read["k"], literal["data"]["encoder_steps"]) == ("latent", 16, 0)
    assert (trust["handover"], trust["quantile"], trust["leave"]) == ("blend", 0.95, 0.1)
    networks = FORMER_READ_OUT | {"labels": "corrected", "widths": [128, 128]}
    assert literal["agent"]["read_out"] | networks == literal["agent"]["read_out"]
    assert differences(literal, default)[0] == ("agent.read.kind", "latent", "clone")
    for variant in ("dt", "dt_mixed", "early", "utilities", "k4", "k_all"):
        assert resolved("reframe", variant).raw["agent"]["read"]["kind"] == "latent"
    assert resolved("reframe", "corrected+k4").raw["agent"]["read"]["kind"] == "corrected"


def test_runs_whose_clones_are_older_go_on_by_a_variant():
    """Their stored config lacks what came later, and a run of today's default is another one."""
    former = resolved("reframe", "former").raw
    assert former["agent"]["read"]["kind"] == "clone"
    stored = json.loads(json.dumps(former))
    del stored["agent"]["read_out"]["activation"], stored["agent"]["read_out"]["loss"]
    del stored["agent"]["trust"]["again"]
    stored = resolve(stored).raw
    assert not differences(stored, former)
    changed = {name for name, _, _ in differences(stored, resolved("reframe").raw)}
    assert {"agent.read_out.activation", "agent.read_out.loss", "agent.trust.again"} <= changed


def trained(name, variant, workdir):
    """Trains to the end; the last value of every metric."""
    config = resolved(name, variant)
    assert train(config, workdir) == 0
    rows = read_metrics(workdir / "metrics.jsonl")
    iterations = round_up(config.iterations, config.run.log_every)
    assert rows[-1]["step"] == config.steps_per_iteration * iterations
    return {name: np.asarray(value, float) for name, value in rows[-1].items()}


def finite(values):
    return all(np.all(np.isfinite(x)) for name, x in values.items() if not name.startswith("train/"))


COMPILED = [name for name in FILES if not resolved(name).env.id.startswith("envpool/")]


@pytest.mark.slow  # that of four_rooms is the run of tests/commands/test_end_to_end.py
@pytest.mark.parametrize("name", COMPILED)
def test_smoke_trains_to_the_end(name, tmp_path):
    assert finite(trained(name, "smoke", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant"), [("classic", "CartPole+smoke"), ("mujoco", "HalfCheetah+smoke")]
)
def test_smoke_on_host_threads_fills_the_memories(name, variant, tmp_path):
    values = trained(name, variant, tmp_path)
    assert finite(values)
    assert values["memory/failure/fill"] > 0
    assert values["memory/success/fill"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["HalfCheetahSparse", "FetchReach", "BallInCup", "CartpoleSwingupSparse"])
def test_smoke_on_sparse_control(variant, tmp_path):
    values = trained("mujoco", f"{variant}+smoke", tmp_path)
    assert finite(values)
    assert values["memory/failure/fill"] > 0 or not values["eval/ensemble/return"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["MontezumaRevenge", "Pong", "Freeway", "Pong+sil", "Pong+rnd"])
def test_smoke_on_images(variant, tmp_path):
    assert finite(trained("atari", f"{variant}+smoke", tmp_path))
