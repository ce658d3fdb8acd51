"""Cliff Walking 4 x 12, the cliff is a terminal failure, goal +1: learning from failures.

Source: AdaMemento (arXiv 2410.04498) names the task; layout, sizes and hyper-parameters are our choice."""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = base.experiment("cliff_walking", "memjax/CliffWalking-v0")
    config.agent = base.adamemento()
    config.agent.reflection.fail_credit = 0.95  # the steps before a fall are to blame, not the way there
    return base.apply_variants(config, variant, {"smoke": _smoke})


def _smoke(config: ConfigDict) -> None:
    """Every part once, in seconds."""
    config.env.num_envs = 16
    config.run.total_steps = 8_192
    config.run.eval_episodes = 16
    config.run.eval_envs = 16
