"""Dark Chamber, a faint pixel in a noisy image, goal behind a lever: telling nearly identical states apart.

Source: AdaMemento (arXiv 2410.04498) names the task; layout, sizes and hyper-parameters are our choice."""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = base.experiment("dark_chamber", "memjax/DarkChamber-v0")
    config.agent = base.adamemento()
    config.agent.bank.key_dim = 64
    config.agent.bank.episode_steps = 200
    return base.apply_variants(config, variant, {"smoke": _smoke})


def _smoke(config: ConfigDict) -> None:
    """Every part once, in seconds."""
    config.env.num_envs = 16
    config.run.total_steps = 8_192
    config.run.eval_episodes = 16
    config.run.eval_envs = 16
