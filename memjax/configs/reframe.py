"""Re:Frame on continuous control: a Decision Transformer beside a memory of few expert trajectories.

Source: Re:Frame (Zelezetsky et al. 2025, arXiv 2508.19344), of which a summary was read. The default read is
ours: clones of the bank act wherever the bank knows the state. `literal` follows the summary, with query and
fusion of ours (docs/reframe.md). The Decision Transformer has the values of its gym experiments (Chen et al.
2021). Claimed by Re:Frame: +10.7 points of D4RL's score at best, better in three of four settings.

Expected: see results/reads_default and results/reads. Data: your own D4RL files, Minari ids, or what
`python -m experiments.offline_data` makes into runs/data. Cost: 100,000 updates of 0.1 s on two cores, half a
minute for the clones; `cpu`: minutes.
  memjax train --config=reframe:hopper+experts5 --workdir=runs/mine \\
      --config.data.path=hopper_medium-v2.hdf5 --config.data.experts=hopper_expert-v2.hdf5
"""

from functools import partial

from ml_collections import ConfigDict

from memjax.configs import base
from memjax.configs.reframe_reads import READS, literal

TARGETS = {"hopper": (3600.0, 1800.0), "walker2d": (5000.0, 2500.0), "halfcheetah": (12000.0, 6000.0)}
NAMES = {"hopper": "Hopper-v4", "walker2d": "Walker2d-v4", "halfcheetah": "HalfCheetah-v4"}
TIERS = ("random", "medium", "medium-replay")
DATA = "runs/data/{env}_{tier}.hdf5"


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant, parts of its name joined by "+"."""
    config = ConfigDict(
        {
            "experiment": "reframe",
            "seed": 0,
            "num_seeds": 1,
            "env": {"id": "envpool/Hopper-v4", "num_envs": 1, "options": {}},
            "data": {
                "path": DATA.format(env="hopper", tier="medium"),
                "best": 1.0,
                "experts": DATA.format(env="hopper", tier="expert"),
                "num_experts": 60,  # (paper)
                "expert_seed": 0,
                "mix": "none",
                "mix_share": 0.1,
                "encoder_steps": 0,
                "holdout": 0.0,
                "credit_every": 0,
                "keep_unfinished": False,
                "max_episode_steps": 0,
                "cache": "",
                "stream": False,
            },
            "agent": _agent(),
            "run": {
                "total_steps": 100_000,  # updates
                "eval_every": 10_000,
                "eval_episodes": 20,
                "eval_envs": 20,
                "checkpoint_every": 5_000,
                "keep_checkpoints": 2,
                "log_every": 100,
                "stop_on_nan": True,
                "pools": 1,
                "overlap": False,
                "memory": "replicated",
            },
            "sinks": base.sinks(),
        }
    )
    return base.apply(config, variant, VARIANTS)


def _agent() -> ConfigDict:
    return ConfigDict(
        {
            "name": "reframe",
            "memory": "associative",
            "batch": 64,  # windows
            "return_scale": 1000.0,
            "targets": TARGETS["hopper"],
            "evaluate_emptied": True,
            "transformer": {
                "context": 20,
                "width": 128,
                "layers": 3,
                "heads": 1,
                "max_steps": 1000,
                "dropout": 0.1,
                "compute": "float32",
                "returns": "token",
                "times": True,
            },
            "optimizer": {
                "learning_rate": 1e-4,
                "weight_decay": 1e-4,
                "max_grad_norm": 0.25,
                "warmup": 10_000,  # updates
                "decay": 0,
            },
            "autoencoder": {
                "width": 64,
                "latent": 64,
                "steps": 20_000,
                "batch": 1024,
                "learning_rate": 1e-3,
                "weight_decay": 1e-4,
                "max_grad_norm": 1.0,
                "return_weight": 1.0,
                "observation_weight": 1.0,
                "action_weight": 1.0,
            },
            "bank": {"trajectories": 60, "capacity": 60_000, "content": "latents"},
            "read": {
                "kind": "clone",
                "query": "hidden",
                "similarity": "dot",
                "k": 1,
                "fusion": "late",
                "dropout": 0.1,
                "dropout_unit": "step",
                "random_neighbors": 0.0,
                "exclude_own": False,
                "method": "auto",
                "recall": 0,
                "utility_weight": 0.5,
                "utility_step": 0.1,
            },
            "trust": {  # of all kinds but "latent"
                "handover": "switch",
                "quantile": 0.95,
                "hidden_steps": 25,
                "enter": 1.0,
                "leave": 1e-3,  # at eight times the distance up to which it is entered
                "stretch": 20,
                "tolerance": 1e-3,
                "returns": "ignored",
                "promise": 0.5,  # of what the experts earned from there; else the transformer goes on
                "window": 25,  # steps after which that is asked
                "again": 1.2,  # times what the transformer earned: then the memory is tried again
            },
            "gains": {  # of the kind "corrected", and of corrected labels
                "width": 128,
                "steps": 4_000,
                "batch": 256,
                "learning_rate": 1e-3,
                "weight_decay": 1e-4,
                "bank_share": 0.25,
                "horizon": 20,
                "effort": 1.0,
            },
            "read_out": {  # of the kinds "difference" and "clone"
                "widths": (256, 256),
                "members": 5,
                "steps": 10_000,
                "batch": 64,
                "learning_rate": 1e-3,
                "weight_decay": 0.1,
                "noise": 0.01,
                "labels": "recorded",
                "activation": "relu",
                "loss": "absolute",
            },
        }
    )


def _environment(config: ConfigDict, env: str) -> None:
    """The task, its datasets and the returns that are asked for."""
    tier = config.data.path.rpartition("_")[2].removesuffix(".hdf5")
    config.env.id = f"envpool/{NAMES[env]}"
    config.data.path = DATA.format(env=env, tier=tier)
    config.data.experts = DATA.format(env=env, tier="expert")
    config.agent.targets = TARGETS[env]


def _tier(config: ConfigDict, tier: str) -> None:
    """How good the recorded data are."""
    env = config.data.experts.rpartition("/")[2].removesuffix("_expert.hdf5")
    config.data.path = DATA.format(env=env, tier=tier)


def _dt(config: ConfigDict) -> None:
    """Control 1: the Decision Transformer on the poor data."""
    literal(config)  # nothing of it is used; older runs have it so
    config.agent.memory = "null"
    config.data.experts = ""


def _dt_mixed(config: ConfigDict, share: float) -> None:
    """Control 2: the same with the expert trajectories mixed in; share 0: by their number of steps."""
    literal(config)
    config.agent.memory = "null"
    config.data.mix = "share" if share else "uniform"
    config.data.mix_share = share


def _dt_parameters(config: ConfigDict) -> None:
    """Control 3: as many parameters as Re:Frame, no memory."""
    _dt(config)
    config.agent.memory = "parameters"


def _follow(config: ConfigDict) -> None:
    """A transformer that follows the return that is asked for, where its data hold several qualities."""
    config.agent.transformer.update(returns="scale", times=False, dropout=0.0)
    config.agent.return_scale /= 3.0
    config.agent.optimizer.decay = config.run.total_steps  # of "cpu" where it stands before


def _low_bank(config: ConfigDict) -> None:
    """Control 4: the bank holds as many episodes of the poor data, never a window's own."""
    config.data.experts = config.data.path
    config.agent.read.exclude_own = True


def _content(config: ConfigDict, content: str) -> None:
    """Control 4: what is found gives the latent of another entry, or the mean of all."""
    config.agent.bank.content = content


def _other_agent(config: ConfigDict, name: str, **fields) -> None:
    """An agent without a transformer, on the same windows."""
    shared = {"batch": config.agent.batch, "context": config.agent.transformer.context}
    config.agent = ConfigDict({"name": name, **shared, "return_scale": config.agent.return_scale, **fields})


def _bc(config: ConfigDict, path: str, best: float = 1.0) -> None:
    """Control 5: behaviour cloning, of the few experts alone, of the poor data or of its best episodes."""
    config.data.update(best=best, **({"mix": "only"} if path == "experts" else {"experts": ""}))
    rates = {"learning_rate": 1e-3, "weight_decay": 1e-4, "max_grad_norm": 1.0}
    _other_agent(config, "bc", widths=(256, 256), **rates)


def _nearest(config: ConfigDict) -> None:
    """Control 5: retrieve and play."""
    sizes = {name: config.agent.bank[name] for name in ("trajectories", "capacity")}
    _other_agent(config, "nearest", **sizes, k=1, method="auto")
    config.run.update(total_steps=100, eval_every=100, checkpoint_every=100)  # it learns nothing


CONTROLS: dict[str, base.Variant] = {
    "dt": _dt,
    "dt_mixed": partial(_dt_mixed, share=0.0),
    "dt_mixed10": partial(_dt_mixed, share=0.1),
    "dt_mixed50": partial(_dt_mixed, share=0.5),
    "dt_parameters": _dt_parameters,
    "low_bank": _low_bank,
    "shuffled": partial(_content, content="shuffled"),
    "constant": partial(_content, content="constant"),
    "bc_experts": partial(_bc, path="experts"),
    "bc": partial(_bc, path="data"),
    "bc10": partial(_bc, path="data", best=0.1),  # "10 % BC" of Chen et al. (2021)
    "nearest": _nearest,
}


def _cpu(config: ConfigDict) -> None:
    """What two cores of a CPU train in minutes: a smaller transformer, fewer updates at a higher rate."""
    config.run.update(
        total_steps=3_000, eval_every=3_000, checkpoint_every=500, eval_episodes=40, eval_envs=40
    )
    if "transformer" in config.agent:
        config.agent.transformer.update(width=64, context=10)
        config.agent.optimizer.update(learning_rate=5e-4, warmup=300)
        config.agent.autoencoder.update(steps=3_000)


def _smoke(config: ConfigDict) -> None:
    """Every part once, in seconds."""
    config.env.options.max_episode_steps = 50
    config.run.update(total_steps=20, log_every=10, eval_every=20, checkpoint_every=10)
    config.run.update(eval_episodes=4, eval_envs=4)
    config.agent.batch = 8
    if "transformer" in config.agent:
        config.agent.transformer.update(width=16, context=5, layers=2)
        config.agent.autoencoder.update(width=8, latent=8, steps=50, batch=64)
        config.agent.read_out.update(widths=(16,), members=2, steps=20, batch=32)
        config.agent.gains.update(width=16, steps=20, batch=32, horizon=5)


VARIANTS: dict[str, base.Variant] = {
    **{name: partial(_environment, env=name) for name in NAMES},
    **{tier: partial(_tier, tier=tier) for tier in TIERS},
    **CONTROLS,
    **READS,
    "follow": _follow,
    "cpu": _cpu,
    "smoke": _smoke,
}
