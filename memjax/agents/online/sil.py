"""PPO with self-imitation learning (Oh et al. 2018), a baseline that remembers good behaviour only.

One update of a rollout, in this order:
  1. episodes that ended go, step by step with their discounted return, into one memory;
  2. PPO as in agents/ppo.py;
  3. minibatches of the memory: imitate actions whose return exceeded the value, Eq. 1-3 of the paper.

Departure: steps are drawn uniformly. The paper draws by max(R - V, 0) and then weighs the losses by it;
here the weight alone does that, as the value of every drawn step is computed anyway.
"""

from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.online.episodes import Scratch, append, init_scratch, keep_last, take_episodes
from memjax.agents.online.ppo import PPOConfig, PPOState, make_learner, ppo_agent
from memjax.memory import MemoryState, make_memory
from memjax.ops.returns import returns_to_go
from memjax.ops.statistics import masked_mean
from memjax.schema import NonNegativeFloat, PositiveInt
from memjax.types import Agent, Array, ConfigError, EnvSpec, Key, PyTree, Rollout


@dataclass(frozen=True)
class ImitationConfig:
    """The memory, and how it is learned from."""

    capacity: PositiveInt  # steps
    episode_steps: PositiveInt  # longer episodes keep their last steps
    episodes_per_update: PositiveInt
    minibatches: PositiveInt  # per rollout
    minibatch: PositiveInt  # steps
    weight: NonNegativeFloat
    value_weight: NonNegativeFloat  # beta_sil

    def check(self) -> None:
        """Raises ConfigError where one rollout's episodes would overflow the memory."""
        need = self.episode_steps * self.episodes_per_update
        if need > self.capacity:
            raise ConfigError(
                "capacity", f"at least episode_steps * episodes_per_update = {need}", self.capacity
            )


@dataclass(frozen=True)
class SILConfig:
    """PPO's section and the imitation's."""

    ppo: PPOConfig
    imitation: ImitationConfig

    @property
    def rollout_steps(self) -> int:
        """T."""
        return self.ppo.rollout_steps

    def check_batch(self, num_envs: int) -> None:
        """Raises ConfigError unless the rollout divides into the minibatches."""
        try:
            self.ppo.check_batch(num_envs)
        except ConfigError as error:
            raise ConfigError(f"ppo.{error.field}", error.expected, error.got) from None


class SILState(flax.struct.PyTreeNode):
    """PPO's state, the memory, and the episodes that have not ended."""

    ppo: PPOState
    bank: MemoryState
    scratch: Scratch


def make_sil(config: SILConfig, spec: EnvSpec, num_envs: int) -> Agent:
    """The agent called "sil". Raises ConfigError where spec and config do not fit."""
    learner = make_learner(config.ppo, spec)
    imitation = config.imitation
    plain = ppo_agent(config.ppo, learner, num_envs)
    observation = jnp.zeros(spec.observation_shape, spec.observation_dtype)
    value_like = {"observation": observation, "action": spec.zero_actions(), "return": jnp.zeros(())}
    # Nothing is looked up by nearness: the key is a constant of one number.
    memory = make_memory(imitation.capacity, 1, value_like, evict="fifo")

    def init(key: Key) -> SILState:
        scratch = init_scratch(spec, imitation.episode_steps, num_envs)
        return SILState(learner.init(key, num_envs), memory.init(), scratch)

    def act(state: SILState, carry: PyTree, timestep, key: Key, *, policy: str = "policy"):
        return plain.act(state.ppo, carry, timestep, key, policy=policy)

    def update(state: SILState, rollout: Rollout, key: Key):
        key_take, key_draw = jax.random.split(jax.random.fold_in(key, 1))
        state = remember(state, rollout, key_take)
        ppo, metrics = plain.update(state.ppo, rollout, key)
        ppo, more = imitate(ppo, state.bank, key_draw)
        return state.replace(ppo=ppo), metrics | more | {"memory/episodes/fill": jnp.mean(state.bank.valid)}

    def remember(state: SILState, rollout: Rollout, key: Key) -> SILState:
        never = jnp.zeros_like(rollout.valid)
        timeline = append(state.scratch, rollout, rollout.observation[:-1], never)
        ended = rollout.done & rollout.valid
        # Episodes that earned most first; equal ones by chance.
        rank = rollout.stats.episode_return + 1e-3 * jax.random.uniform(key, ended.shape)
        episodes = take_episodes(timeline, rollout, ended, rank, imitation.episodes_per_update)
        n = episodes.mask.size
        to_go = returns_to_go(episodes.reward, episodes.mask, discount=config.ppo.discount)
        values = {
            "observation": episodes.observation.reshape(n, *episodes.observation.shape[2:]),
            "action": episodes.action.reshape(n, *episodes.action.shape[2:]),
            "return": to_go.reshape(n),
        }
        bank, _ = memory.write(state.bank, jnp.zeros((n, 1)), values, mask=episodes.mask.reshape(n))
        return state.replace(bank=bank, scratch=keep_last(timeline, imitation.episode_steps))

    def loss(params: PyTree, observation: Array, action: Array, returns: Array, mask: Array):
        distribution, value = learner.apply(params, observation)
        gain = jnp.maximum(returns - value[:, 0], 0.0)
        imitate = -masked_mean(distribution.log_prob(action) * jax.lax.stop_gradient(gain), mask)
        return imitation.weight * (imitate + imitation.value_weight * 0.5 * masked_mean(gain**2, mask))

    def imitate(ppo: PPOState, bank: MemoryState, key: Key):
        values, _, mask = memory.sample(bank, key, imitation.minibatches * imitation.minibatch)
        observed = learner.observe(ppo, values["observation"])
        batches = jax.tree.map(
            lambda x: x.reshape(imitation.minibatches, -1, *x.shape[1:]),
            (observed, values["action"], values["return"], mask),
        )

        def step(carry, batch):
            params, opt_state = carry
            value, gradient = jax.value_and_grad(loss)(params, *batch)
            updates, opt_state = learner.optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, opt_state), values = jax.lax.scan(step, (ppo.params, ppo.optimizer), batches)
        return ppo.replace(params=params, optimizer=opt_state), {"loss/imitation": values.mean()}

    return plain._replace(
        init=init,
        act=act,
        update=update,
        bonus=plain.bonus and (lambda state, obs: plain.bonus(state.ppo, obs)),  # type: ignore[misc]
        acting=lambda state: state.replace(ppo=plain.acting(state.ppo), bank=(), scratch=()),
    )
