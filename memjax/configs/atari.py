"""AdaMemento on Atari games with sticky actions; the memories hold frames.

Source: AdaMemento (arXiv 2410.04498) evaluates on Atari, Montezuma's Revenge above all; its hyper-parameters
could not be obtained. PPO and the intrinsic reward have the customary values and sizes of Burda et al. 2018
(RND), sticky actions are those of Machado et al. 2018. Sizes of the memories, kappa, the autoencoder and the
`cpu` variant are our choice.

Expected: no claim against the paper; the full budget has not been run by us. The `cpu` variant stops after
0.4 million frames, where a score of 0 on Montezuma's Revenge is to be expected: it shows that every part
works at this size, and results/atari says what it gave.

Memory: a stored step is one 84 x 84 plane in uint8, 7,056 bytes, and 296 of key, action and bookkeeping. A
bank of 204,800 steps takes 1.5 GB, both 3.0 GB; the running episodes take another 0.9 GB (128 environments,
the last 1,000 steps of each). A checkpoint holds all of it. `cpu`: 2 x 60 MB and 56 MB.

Cost: 50 million frames (12.5 million steps) per game, not measured by us. On two cores of a CPU `cpu` took 15
minutes and `smoke` takes about one.

  memjax train --config=atari --workdir=runs/montezuma
  memjax train --config=atari:Pong+ppo --workdir=runs/pong_ppo
  memjax train --config=atari:MontezumaRevenge+cpu --workdir=runs/montezuma_cpu
  memjax train --config=atari:Freeway+smoke --workdir=runs/freeway_smoke

Variants are 45 games; experiments/campaigns/atari_mujoco.toml runs them all. Another one:
--config.env.id=envpool/Boxing-v5
"""

from functools import partial

from ml_collections import ConfigDict

from memjax.configs import base

# Hard exploration (Bellemare et al. 2016), the seven of Mnih et al. 2013, and what else is among the 49 of
# Mnih et al. 2015 but for six sports: Bowling, Boxing, DoubleDunk, FishingDerby, IceHockey and Tennis. The
# source has 45 games; which ones we could not read.
HARD = ("MontezumaRevenge", "Pitfall", "PrivateEye", "Venture", "Gravitar", "Solaris", "Freeway")
EASY = ("Pong", "Breakout", "BeamRider", "Enduro", "Qbert", "Seaquest", "SpaceInvaders")
OTHERS = (
    *(
        "Alien",
        "Amidar",
        "Assault",
        "Asterix",
        "Asteroids",
        "Atlantis",
        "BankHeist",
        "BattleZone",
        "Centipede",
    ),
    *(
        "ChopperCommand",
        "CrazyClimber",
        "DemonAttack",
        "Frostbite",
        "Gopher",
        "Hero",
        "Jamesbond",
        "Kangaroo",
    ),
    *(
        "Krull",
        "KungFuMaster",
        "MsPacman",
        "NameThisGame",
        "Riverraid",
        "RoadRunner",
        "Robotank",
        "StarGunner",
    ),
    *("TimePilot", "Tutankham", "UpNDown", "VideoPinball", "WizardOfWor", "Zaxxon"),
)


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant, parts of its name joined by "+"."""
    config = base.experiment("atari", "envpool/MontezumaRevenge-v5")
    config.env.num_envs = 128
    config.env.options = {
        "repeat_action_probability": 0.25,  # (spec) sticky actions
        "reward_clip": True,  # what is learned from; scores are counted unclipped
        "max_episode_steps": 4_500,  # 18,000 frames: the limit of Burda et al. 2018
    }
    config.agent = _agent()
    config.run.total_steps = 12_500_000  # (spec) 50 million frames; 50_000_000 steps for games of exploration
    config.run.eval_every = 50
    config.run.eval_episodes = 32
    config.run.eval_envs = 32
    config.run.checkpoint_every = 50
    config.run.log_every = 1  # an iteration takes long enough to be reported by itself
    return base.apply(config, variant, VARIANTS)


def _agent() -> ConfigDict:
    agent = base.adamemento()
    agent.ppo.update(
        rollout_steps=128,
        epochs=4,
        minibatches=4,
        learning_rate=1e-4,
        clip=0.1,
        discount=0.999,
        entropy_cost=0.001,
        encoder="conv",
        shared_torso=True,
        widths=(512,),
        activation="relu",
    )
    agent.ppo.novelty.update(encoder="conv", widths=(512,), latent=256, learning_rate=1e-4)
    agent.bank.update(
        capacity=204_800, episode_steps=1_000, episodes_per_update=8, last_frame=True, key_dim=64
    )
    agent.label.length_discount = 1.0  # scores are not reached by being quick
    agent.reflection.update(learning_rate=3e-4, minibatches=4, minibatch=1_024)
    agent.gate.update(kappa=0.7, min_updates=200)
    return agent


def _game(config: ConfigDict, game: str) -> None:
    """Another game."""
    config.env.id = f"envpool/{game}-v5"


def _sil(config: ConfigDict) -> None:
    """Its memory holds whole stacks of four frames: 16,384 steps of 28,224 bytes, 0.5 GB."""
    base.with_agent(config, "sil")
    config.agent.imitation.update(episode_steps=500, episodes_per_update=8)


def _cpu(config: ConfigDict) -> None:
    """Two cores: 0.4 million frames, an eighth of the environments, half the epochs, small memories."""
    config.env.num_envs = 16
    config.env.options.max_episode_steps = 1_000
    config.run.update(total_steps=100_352, eval_every=49, eval_episodes=4, eval_envs=4, checkpoint_every=5)
    _ppo(config).epochs = 2
    _ppo(config).widths = (256,)
    _memory(config, capacity=8_192, episode_steps=500, episodes_per_update=4, minibatch=256)


def _smoke(config: ConfigDict) -> None:
    """Every part once, in about a minute."""
    _cpu(config)
    config.env.num_envs = 8
    config.env.options.max_episode_steps = 60
    config.run.update(total_steps=1_024, eval_every=0, eval_episodes=2, eval_envs=2, checkpoint_every=1)
    _ppo(config).update(rollout_steps=32, epochs=1, minibatches=2, widths=(64,))
    _memory(config, capacity=512, episode_steps=64, episodes_per_update=4, minibatch=64)
    if "label" in config.agent:
        config.agent.label.min_count = 2


def _ppo(config: ConfigDict) -> ConfigDict:
    return config.agent.ppo if "ppo" in config.agent else config.agent


def _memory(
    config: ConfigDict, capacity: int, episode_steps: int, episodes_per_update: int, minibatch: int
) -> None:
    """Sizes of the banks, whichever agent has them."""
    sizes = dict(capacity=capacity, episode_steps=episode_steps, episodes_per_update=episodes_per_update)
    if "bank" in config.agent:
        config.agent.bank.update(sizes)
        config.agent.reflection.minibatch = minibatch
    if "imitation" in config.agent:
        config.agent.imitation.update(sizes, minibatch=minibatch)


VARIANTS: dict[str, base.Variant] = {
    # Its bank stores the newest frame alone, and a policy that imitates has to see four.
    **{name: variant for name, variant in base.VARIANTS.items() if name != "imitate"},
    **{game: partial(_game, game=game) for game in HARD + EASY + OTHERS},
    "sil": _sil,
    "cpu": _cpu,
    "smoke": _smoke,
}
