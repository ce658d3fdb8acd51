"""AdaMemento on Cliff Walking, 4 x 12, where a fall ends the episode: learning from failures.

Source: AdaMemento (arXiv 2410.04498) names the task; the map is that of Sutton and Barto, rewards and all
hyper-parameters are ours.

    memjax train --config=cliff_walking --workdir=runs/cliff --config.num_seeds=5
    memjax train --config=cliff_walking:no_failures --config.num_seeds=5 \\
        --workdir=runs/cliff_no

Further variants: ppo, rnd, sil, smoke, and all of base.VARIANTS.

Expected (experiments/results/cliff_walking, ten seeds): 65 falls per 1,000 training episodes with the failure
memory and 175 without, medians. Both learn the way to the goal in all ten. About a thousand falls come before
the first success, and no memory can save those.
Wall time: half a minute to a minute for five seeds on a 2-core CPU.
"""

from ml_collections import ConfigDict

from memjax.configs import base


def get_config(variant: str = "") -> ConfigDict:
    """AdaMemento, or what `variant` makes of it."""
    config = base.experiment("cliff_walking", "memjax/CliffWalking-v0")
    config.run.log_every = config.run.eval_every = 2  # iterations of 4,096 steps
    config.agent = base.illustration()
    config.agent.reflection.fail_credit = 0.95  # the steps before a fall are to blame, not the way there
    return base.apply(config, variant, VARIANTS)


VARIANTS: dict[str, base.Variant] = {**base.VARIANTS, "smoke": base.smoke}
