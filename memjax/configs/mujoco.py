"""AdaMemento on continuous control: locomotion, dense or sparse; sparse manipulation and swing-up.

Source: AdaMemento (arXiv 2410.04498) evaluates on MuJoCo tasks; which, and with which hyper-parameters,
could not be obtained. PPO's values are the customary ones (Schulman et al. 2017, table 3), observations and
rewards normalised. HalfCheetahSparse pays 1 per step beyond 5 units of distance, the task
of VIME (Houthooft et al. 2016). Sizes of the memories, kappa and the autoencoder are our choice.

Expected: no claim against the paper. Seen with seed 0 (results/mujoco): HalfCheetah rises from -350 to 1,400,
`no_memory` to 1,600, PPO alone to 4,100; one seed each. The other tasks have been run as `smoke`
or not at all.

Cost: 3 million steps per task; HalfCheetah took three and a half minutes on two cores of a CPU. `cpu` stops
after 1 million steps; `smoke` takes half a minute.

  memjax train --config=mujoco --workdir=runs/half_cheetah
  memjax train --config=mujoco:Hopper+ppo --workdir=runs/hopper_ppo
  memjax train --config=mujoco:HalfCheetahSparse+no_gate --workdir=runs/sparse
  memjax train --config=mujoco:FetchReach+smoke --workdir=runs/fetch_smoke
"""

from functools import partial

from ml_collections import ConfigDict

from memjax.configs import base

# Gymnasium's eleven. The source has eleven tasks; which ones we could not read.
GYMNASIUM = (
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"),
    *("InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"),
)
# Name of the variant: envpool's task, and options of it.
TASKS: dict[str, tuple[str, dict]] = {
    **{task: (f"{task}-v4", {}) for task in GYMNASIUM},
    "HalfCheetahSparse": ("HalfCheetah-v4", {"sparse_distance": 5.0}),
    "FetchReach": ("FetchReach-v4", {}),  # -1 per step, 0 at the goal
    "BallInCup": ("BallInCupCatch-v1", {}),  # 1 per step while the ball is caught
    "CartpoleSwingupSparse": ("CartpoleSwingupSparse-v1", {}),
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant, parts of its name joined by "+"."""
    config = base.experiment("mujoco", "envpool/HalfCheetah-v4")
    config.env.num_envs = 32
    config.agent = _agent()
    config.run.total_steps = 3_000_000  # (spec)
    config.run.eval_every = 10
    config.run.eval_episodes = 16
    config.run.eval_envs = 16
    config.run.checkpoint_every = 10
    config.run.log_every = 1
    return base.apply(config, variant, VARIANTS)


def _agent() -> ConfigDict:
    agent = base.adamemento()
    agent.ppo.update(
        rollout_steps=512,
        epochs=10,
        minibatches=32,
        learning_rate=3e-4,
        clip=0.2,
        discount=0.99,
        entropy_cost=0.0,
        widths=(64, 64),
        activation="tanh",
        normalize_observations=True,
        scale_rewards=True,
    )
    agent.ppo.novelty.update(widths=(256, 256), latent=64, learning_rate=1e-4)
    agent.bank.update(capacity=204_800, episode_steps=1_000, episodes_per_update=8, key_dim=0)
    agent.label.min_return = -1e6  # returns may be negative: the window alone says what a success is
    agent.label.length_discount = 1.0
    agent.reflection.update(learning_rate=3e-4, minibatches=4, minibatch=1_024)
    agent.gate.update(kappa=0.7, min_updates=200)
    return agent


def _task(config: ConfigDict, id: str, options: dict) -> None:
    """Another task."""
    config.env.id = f"envpool/{id}"
    config.env.options = options


def _sil(config: ConfigDict) -> None:
    """PPO with self-imitation, its memory sized for long episodes."""
    base.with_agent(config, "sil")
    config.agent.imitation.update(episode_steps=1_000, episodes_per_update=16)


def _cpu(config: ConfigDict) -> None:
    """A third of the steps."""
    config.run.total_steps = 1_000_000


def _short(config: ConfigDict) -> None:
    """For runs of less than a million steps: more updates, help that is measured, a bonus that fades."""
    config.run.update(total_steps=300_000, eval_every=20, log_every=2)
    ppo = config.agent.ppo if "ppo" in config.agent else config.agent
    ppo.rollout_steps = 64
    if "gate" in config.agent:
        config.agent.gate.update(measured=True, most_share=0.25)
        config.agent.bank.fade_rollouts = 10


def _smoke(config: ConfigDict) -> None:
    """Every part once, in seconds."""
    config.env.num_envs = 8
    config.env.options.max_episode_steps = 50
    config.run.update(total_steps=2_048, eval_every=4, eval_episodes=4, eval_envs=4, checkpoint_every=2)
    ppo = config.agent.ppo if "ppo" in config.agent else config.agent
    ppo.update(rollout_steps=64, epochs=2, minibatches=4)
    if "bank" in config.agent:
        config.agent.bank.update(capacity=1_024, episode_steps=50, episodes_per_update=8)
        config.agent.reflection.minibatch = 128
        config.agent.label.min_count = 4
    if "imitation" in config.agent:
        config.agent.imitation.update(capacity=1_024, episode_steps=50, episodes_per_update=8, minibatch=128)


VARIANTS: dict[str, base.Variant] = {
    **base.VARIANTS,
    **{name: partial(_task, id=id, options=options) for name, (id, options) in TASKS.items()},
    "sil": _sil,
    "cpu": _cpu,
    "short": _short,
    "smoke": _smoke,
}
