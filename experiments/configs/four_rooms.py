"""Four Rooms 13 x 13, goal in the opposite room, sparse +1: exploration and exploitation coordinated.

Source: AdaMemento (arXiv 2410.04498) names the task; layout, sizes and hyper-parameters are our choice."""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = base.experiment("four_rooms", "memjax/FourRooms-v0")
    config.agent = base.adamemento()
    return base.apply_variants(config, variant, {"smoke": _smoke})


def _smoke(config: ConfigDict) -> None:
    """Every part once, in seconds."""
    config.env.num_envs = 16
    config.run.total_steps = 8_192
    config.run.eval_episodes = 16
    config.run.eval_envs = 16
