"""Defaults that the shipped configs share: one place for every hyper-parameter.

Steps are environment steps, per seed; "per rollout" is per update of num_envs * rollout_steps of them.

Values marked (spec) are those that docs/adamemento.md proposes or that are customary for PPO and RND; the
paper's own are unknown. All others were chosen here.
"""

from collections.abc import Callable, Mapping
from functools import partial

from ml_collections import ConfigDict

from memjax.schema import one_of
from memjax.types import ConfigError

Variant = Callable[[ConfigDict], None]  # changes a config in place


def merged(section: ConfigDict, **fields) -> ConfigDict:
    """A copy of `section` with fields set."""
    return ConfigDict({**section, **fields})


def ppo() -> ConfigDict:
    """PPO on a small vector task: 64 environments, 2 x 64 tanh (spec: "toy" column)."""
    return ConfigDict(
        {
            "rollout_steps": 64,  # per environment and update
            "epochs": 4,  # over the rollout
            "minibatches": 4,  # per epoch
            "env_groups": 1,  # of environments; a minibatch takes as many steps of each; 1: of all at once
            "learning_rate": 1e-3,  # of Adam
            "anneal_updates": 0,  # rollouts until the learning rate is 0; 0: constant
            "max_grad_norm": 0.5,  # L2, over all parameters
            "clip": 0.2,  # of the probability ratio around 1
            "discount": 0.99,  # gamma_ext, per step
            "gae_decay": 0.95,  # lambda
            "entropy_cost": 0.01,  # per nat
            "value_cost": 1.0,  # of half the squared error
            "encoder": "mlp",
            "shared_torso": False,
            "widths": (64, 64),  # units of the hidden layers
            "activation": "tanh",
            "normalize_observations": False,
            "scale_rewards": False,
            "extrinsic_weight": 2.0,  # (spec)
            "intrinsic_weight": 1.0,  # (spec)
            "offpolicy": "mask",  # (spec) mask | is | bc
            "fade_updates": 0,  # rollouts until the intrinsic weight is 0; 0: constant
            "clone_weight": 0.1,  # (spec) of "bc"
            "reference_every": 0,  # environments; 0: the intrinsic reward is not constrained
            "constraint_rate": 0.05,  # of Adam
            "novelty": novelty("none"),
        }
    )


def novelty(kind: str) -> ConfigDict:
    """Intrinsic reward of kind none | rnd | coarse | fine | coarse_fine."""
    return ConfigDict(
        {
            "kind": kind,
            "fine": "hoyer",  # hoyer | l1 | l0 | kl | active_set | frozen_set | staged_set
            "beta_coarse": 1.0,  # (spec)
            "beta_fine": 1.0,  # (spec)
            "encoder": "mlp",
            "widths": (64,),  # units; mirrored in the decoder
            "latent": 32,  # (spec) units of the code
            "sparsity": 1e-3,  # (spec) weight of the mean absolute code
            "learning_rate": 1e-3,  # of Adam
            "sample_share": 0.25,  # (spec) of the rollout
            "minibatch": 512,  # observations
            "standardize": True,  # (spec) per number, clipped to +-5
            "standardize_rollouts": 0,  # that the statistics are taken from; 0: all (spec)
            "discount": 0.99,  # (spec) gamma_int, per step
            "after_end": "last",  # of an episode the bonus's value goes on from its last | the next state
            "combine": "sum",  # (spec) sum | product | rank, of coarse and fine
            "stage_rollouts": 3,  # of "staged_set": until its code is frozen anew
            "stage_sample": 4096,  # past frames that carry its counts over
            "stage_rate": 3e-2,  # of Adam, on its code
            "stage_sparsity": 0.3,  # weight of the absolute code, per number of the input
        }
    )


def adamemento() -> ConfigDict:
    """All parts on, sized for a small vector task."""
    return ConfigDict(
        {
            "name": "adamemento",
            "ppo": merged(ppo(), novelty=novelty("coarse_fine")),
            "bank": {
                "enabled": True,
                "failures": True,
                "capacity": 4096,  # steps, each bank
                "episode_steps": 100,  # longer episodes keep their last ones
                "until_reward": False,
                "fade_rollouts": 0,
                "episodes_per_update": 8,  # per rollout, each bank
                "last_frame": False,
                "key_dim": 0,  # of a random projection; 0: the observation is the key
                "demonstrations": "",
                "num_demonstrations": 0,
            },
            "label": {
                "window": 100,  # (spec) episodes
                "min_count": 20,  # episodes before anything is labelled
                "success_quantile": 0.8,  # (spec)
                "failure_quantile": 0.2,  # (spec)
                "keep_quantile": 0.5,  # (spec)
                "min_return": 0.0,  # (spec)
                "length_discount": 0.99,  # per step: shorter successes are worth more
            },
            "reflection": {
                "prediction": "network",  # network | nearest
                "neighbours": 8,  # of "nearest"
                "weighting": "uniform",  # (spec) uniform | return
                "label_smoothing": 0.01,  # (spec)
                "confidence": "bce",  # (spec) bce | value
                "fail_credit": 1.0,  # (spec) 0.95 where early steps of a failure were fine
                "learning_rate": 1e-3,  # of Adam
                "weight_decay": 0.0,
                "minibatches": 4,  # (spec) per rollout
                "minibatch": 512,  # steps
                "failures_per_success": 1,
                "cloned_share": 0.5,  # of a minibatch, at most, from episodes the memory played itself
                "holdout": 10,  # every 10th episode (spec: 10 %)
                "calibrate_every": 10,  # rollouts
                "outcome_discount": 0.99,  # per step to the end of the episode
                "imitation_weight": 0.0,
                "imitation_minibatches": 4,
            },
            "gate": {
                "enabled": True,
                "kappa": 0.6,  # (spec, toy column)
                "adaptive": False,
                "max_share": 0.5,  # (spec) of "adaptive"
                "sample": False,
                "min_episodes": 5,  # (spec) in each bank, before the gate may open
                "min_updates": 40,  # gradient steps of P and C, likewise
                "advantage": False,
                "margin": 0.0,  # standard deviations of the advantages
                "measured": False,
                "least_share": 0.1,  # of the episodes
                "most_share": 0.9,  # of the episodes
                "forget": 0.95,  # per rollout
            },
        }
    )


def illustration() -> ConfigDict:
    """AdaMemento for the three illustrations; chosen on seeds 100 to 104, which no reported run uses.

    What PPO and RND share with it (the intrinsic weight) is also what served RND best of 0.3, 0.5 and 1.
    """
    agent = adamemento()
    agent.ppo.intrinsic_weight = 0.5
    agent.ppo.offpolicy = "bc"  # PPO's own policy learns what the memory knows; under "mask" it forgets it
    agent.ppo.novelty.fine = "frozen_set"  # codes that go on learning make known states look new
    agent.ppo.novelty.standardize_rollouts = 1  # and so do statistics that go on moving
    agent.reflection.weighting = "return"  # of a loop, the way out of it: the later visit counts for more
    agent.reflection.outcome_discount = 0.9
    agent.reflection.minibatches = 16
    agent.gate.min_episodes = 1  # one success is worth following in a world without chance
    return agent


def sil() -> ConfigDict:
    """PPO+SIL (Oh et al. 2018, table of hyper-parameters, scaled to short rollouts)."""
    return ConfigDict(
        {
            "name": "sil",
            "ppo": ppo(),
            "imitation": {
                "capacity": 16384,  # steps
                "episode_steps": 100,  # longer episodes keep their last ones
                "episodes_per_update": 16,  # per rollout
                "minibatches": 4,  # per rollout
                "minibatch": 512,  # steps
                "weight": 1.0,  # of the imitation loss
                "value_weight": 0.01,
                "demonstrations": "",
                "num_demonstrations": 0,
            },
        }
    )


def experiment(name: str, env_id: str, **options) -> ConfigDict:
    """A run without an agent: environment and schedule."""
    return ConfigDict(
        {
            "experiment": name,
            "seed": 0,
            "num_seeds": 1,
            "env": {"id": env_id, "num_envs": 64, "options": options},
            "agent": {},
            "run": {
                "total_steps": 300_000,  # per seed
                "eval_every": 5,  # iterations
                "eval_episodes": 64,
                "eval_envs": 64,
                "checkpoint_every": 50,
                "keep_checkpoints": 2,
                "log_every": 5,
                "stop_on_nan": True,
                "pools": 1,
                "overlap": True,
                "memory": "replicated",
            },
            "sinks": sinks(),
        }
    )


def sinks() -> ConfigDict:
    """Where metrics are copied to. Nothing leaves the machine unless `wandb` is switched on."""
    return ConfigDict(
        {
            "tensorboard": {"on": True, "seeds": True},
            "csv": {"on": False},
            "wandb": {
                "on": False,
                "project": "memjax",
                "entity": "",
                "mode": "online",
                "seeds": False,
            },
        }
    )


def with_agent(config: ConfigDict, name: str) -> None:
    """Replaces the agent by a baseline on the same hyper-parameters: "ppo", "rnd" or "sil"."""
    section = config.agent.ppo if "ppo" in config.agent else config.agent
    none = merged(section.novelty, kind="none", after_end="last", combine="sum")
    plain = merged(section, reference_every=0, fade_updates=0, novelty=none)
    if name == "sil":
        config.agent = merged(sil(), ppo=plain)
    elif name == "rnd":  # its observation statistics keep moving, as published
        novel = merged(section.novelty, kind="rnd", standardize_rollouts=0, combine="sum")
        config.agent = merged(section, name="ppo", reference_every=0, novelty=novel)
    else:
        config.agent = merged(plain, name="ppo")


def _baseline(config: ConfigDict, name: str) -> None:
    """A baseline on the same hyper-parameters, without the memory."""
    with_agent(config, name)


def _novelty(config: ConfigDict, kind: str) -> None:
    """Another intrinsic reward, or none."""
    section = config.agent.ppo if "ppo" in config.agent else config.agent
    section.novelty.update(kind=kind, combine="sum")  # one stream alone, or none, is combined with nothing
    if kind == "none":
        section.reference_every = section.fade_updates = 0
        if "bank" in config.agent:
            config.agent.bank.fade_rollouts = 0
    if kind == "rnd":  # as in `with_agent`
        section.novelty.standardize_rollouts = 0


def _no_memory(config: ConfigDict) -> None:
    """PPO with the coarse-fine intrinsic reward; no memory says when that may fade."""
    config.agent.bank.update(enabled=False, fade_rollouts=0)


def _constant_bonus(config: ConfigDict) -> None:
    """The intrinsic reward keeps its weight."""
    config.agent.bank.fade_rollouts = 0


def _next_start(config: ConfigDict) -> None:
    """The bonus's value goes on from the start of the next episode, where it is learned."""
    section = config.agent.ppo if "ppo" in config.agent else config.agent
    section.novelty.after_end = "next"


def _no_failures(config: ConfigDict) -> None:
    """Without the memory of failures."""
    config.agent.bank.failures = False


def _no_gate(config: ConfigDict) -> None:
    """The memory acts whenever it can: confidence is always above 0."""
    config.agent.gate.update(enabled=True, kappa=0.0)


def _no_help(config: ConfigDict) -> None:
    """The memory never acts; it goes on to count successes, and to be imitated where that is asked for."""
    config.agent.gate.update(enabled=False, adaptive=False, advantage=False, measured=False)


def _memory_only(config: ConfigDict) -> None:
    """No gate, and no intrinsic reward either."""
    _no_gate(config)
    _novelty(config, "none")


def _constrained(config: ConfigDict) -> None:
    """The intrinsic reward is held down by a reference in half of the environments (HEPO)."""
    section = config.agent.ppo if "ppo" in config.agent else config.agent
    section.reference_every = 2


def _imitate(config: ConfigDict) -> None:
    """The policy learns from the success bank, with the weight that SIL gives to imitation."""
    config.agent.reflection.imitation_weight = 1.0


def _gate(config: ConfigDict, **fields) -> None:
    """Other conditions for the memory's action."""
    config.agent.gate.update(enabled=True, **fields)


# What the `:VARIANT` of every AdaMemento config may name, beside its own.
VARIANTS: dict[str, Variant] = {
    "ppo": partial(_baseline, name="ppo"),
    "rnd": partial(_baseline, name="rnd"),
    "sil": partial(_baseline, name="sil"),
    "no_memory": _no_memory,
    "no_novelty": partial(_novelty, kind="none"),
    "no_failures": _no_failures,
    "no_gate": _no_gate,
    "no_help": _no_help,
    "memory_only": _memory_only,
    "constrained": _constrained,
    "constant_bonus": _constant_bonus,
    "next_start": _next_start,
    "advantage": partial(_gate, advantage=True),
    "measured": partial(_gate, measured=True),
    "imitate": _imitate,
    "coarse": partial(_novelty, kind="coarse"),
    "fine": partial(_novelty, kind="fine"),
    "rnd_memory": partial(_novelty, kind="rnd"),
}


def smoke(config: ConfigDict) -> None:
    """Every part of an illustration once, in seconds."""
    config.env.num_envs = 16
    config.run.total_steps = 8_192
    config.run.eval_episodes = 16
    config.run.eval_envs = 16


def apply(config: ConfigDict, text: str, known: Mapping[str, Variant]) -> ConfigDict:
    """Applies variants in the order in which they are named, and locks the config.

    Args:
      config: the config without variants; it is changed in place.
      text: names joined by "+", such as "coarse" or "ppo+smoke"; "" for none.
      known: what each name does to a config.

    Returns:
      The same config, locked: fields can be set, but none can be added.

    Raises:
      ConfigError: for a name that is not among `known`.
    """
    for name in filter(None, text.split("+")):
        if name not in known:
            raise ConfigError("--config", f"a variant, {one_of(name, sorted(known))}", repr(name))
        known[name](config)
    return config.lock()
