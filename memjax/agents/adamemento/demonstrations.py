"""Demonstrations as the first successes of AdaMemento. The paper has none: our addition."""

from functools import partial

from memjax.agents.adamemento import banks
from memjax.agents.adamemento.config import AdaMementoConfig
from memjax.agents.online import demonstrations
from memjax.agents.online.episodes import Episodes
from memjax.types import EnvSpec


def make_episodes(config: AdaMementoConfig, spec: EnvSpec) -> Episodes | None:
    """The demonstrations that a config names, as they are written to the success bank; None for none.

    Of a longer episode the last `episode_steps` are kept, or with `until_reward` those up to its last reward
    above 0, as of those that the agent plays itself.

    Raises:
      ConfigError: the file cannot be read, or the bank is too small for them.
    """
    bank = config.bank
    return demonstrations.make_episodes(
        bank.demonstrations,
        bank.num_demonstrations,
        spec,
        section="agent.bank",
        capacity=bank.capacity,
        length=bank.episode_steps,
        until_reward=bank.until_reward,
        length_discount=config.label.length_discount,
        stored=partial(banks.stored, bank),
    )
