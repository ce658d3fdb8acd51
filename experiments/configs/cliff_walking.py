"""Cliff Walking 4 x 12, the cliff is a terminal failure, goal +1: learning from failures.

Source: AdaMemento (arXiv 2410.04498) names the task; the map is that of Sutton and Barto, rewards and all
hyper-parameters are ours.

    memjax train --config=experiments/configs/cliff_walking.py --workdir=runs/cliff --config.num_seeds=5
    memjax train --config=experiments/configs/cliff_walking.py:no_failures --config.num_seeds=5 \\
        --workdir=runs/cliff_no

Further variants: ppo, rnd, sil, smoke, and all of base.VARIANTS.

Expected: falls per 1,000 training episodes, seeds 100 to 104: with the failure memory 57, 77, 54, 36 and 61,
without 178, 439, 50, 170 and 72. Both learn the way to the goal in all five. About a thousand falls come
before the first success, and no memory can save those.
Wall time: half a minute to a minute for five seeds on a 2-core CPU.
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(variant: str = "") -> ConfigDict:
    """AdaMemento, or what `variant` makes of it."""
    config = base.experiment("cliff_walking", "memjax/CliffWalking-v0")
    config.run.log_every = config.run.eval_every = 2  # iterations of 4,096 steps
    config.agent = base.illustration()
    config.agent.reflection.fail_credit = 0.95  # the steps before a fall are to blame, not the way there
    return base.apply_variants(config, variant, {"smoke": base.smoke})
