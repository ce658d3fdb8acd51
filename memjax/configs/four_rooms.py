"""AdaMemento in Four Rooms, 13 x 13, one reward in the opposite room: exploring and exploiting.

Source: AdaMemento (arXiv 2410.04498) names the task. Its layout could not be read: map, time limit and all
hyper-parameters are ours.

    memjax train --config=four_rooms --workdir=runs/four_rooms --config.num_seeds=5
    memjax train --config=four_rooms:rnd --config.num_seeds=5 \\
        --workdir=runs/four_rooms_rnd

Further variants: ppo, sil, smoke, and all of base.VARIANTS.

Expected (experiments/results/four_rooms, ten seeds): AdaMemento reaches 90 % evaluation success in all ten,
after 33 to 82 thousand steps, median 61; PPO+RND in eight, median 57; PPO in three.

The difficulty was set by the baselines: from the far corner with 50 steps, 2.5 times the shortest way, PPO
fails in three seeds of five and PPO+RND in none; with 60 to 100 steps PPO solves four or five.
Wall time: half a minute to a minute for five seeds on a 2-core CPU.
"""

from ml_collections import ConfigDict

from memjax.configs import base


def get_config(variant: str = "") -> ConfigDict:
    """AdaMemento, or what `variant` makes of it."""
    config = base.experiment("four_rooms", "memjax/FourRooms-v0", random_start=False, max_steps_in_episode=50)
    config.run.log_every = config.run.eval_every = 2  # iterations of 4,096 steps
    config.agent = base.illustration()
    return base.apply(config, variant, VARIANTS)


VARIANTS: dict[str, base.Variant] = {**base.VARIANTS, "smoke": base.smoke}
