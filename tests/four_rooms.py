"""A small run of AdaMemento in Four Rooms; tests that launch it share its compiled programs."""

NUM_ENVS, ROLLOUT_STEPS = 8, 64
RUN = [
    f"--config.env.num_envs={NUM_ENVS}",
    "--config.num_seeds=2",
    "--config.run.log_every=1",
    "--config.run.eval_every=4",
    "--config.run.eval_episodes=2",
    "--config.run.eval_envs=2",
]
AGENT = [
    "--config.agent.ppo.widths=16,",
    "--config.agent.ppo.epochs=2",
    "--config.agent.ppo.novelty.minibatch=64",
    "--config.agent.ppo.novelty.widths=16,",
    "--config.agent.reflection.minibatch=64",
]


def steps_of(iterations: int) -> int:
    """Of one seed."""
    return NUM_ENVS * ROLLOUT_STEPS * iterations
