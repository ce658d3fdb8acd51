"""Proximal policy optimisation (Schulman et al. 2017), with an optional intrinsic reward (PPO+RND).

One update of a rollout, in this order (`learn`):
  1. intrinsic reward of the true successors, under the novelty module as it was;
  2. values of all states at once; advantages of each reward stream (GAE); their weighted sum;
  3. epochs of minibatches: clipped policy loss, value losses, entropy, one Adam step each;
  4. the novelty module learns.

The policy terms of a step count only where `gate` is False, so that AdaMemento can pass steps whose action
its memory chose (spec AdaMemento, section 6); plain PPO passes none.

Every function takes first a `Learner`, the parts that do not change while a run learns.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.online import novelty as novelties
from memjax.agents.online.config import PPOConfig
from memjax.agents.online.novelty import Novelty, make_novelty
from memjax.networks.actor_critic import ActorCritic
from memjax.networks.distributions import Distribution
from memjax.ops import losses
from memjax.ops.returns import discounted_sums, generalized_advantage
from memjax.ops.statistics import Running, masked_mean
from memjax.types import Action, Agent, Array, ConfigError, EnvSpec, Key, PyTree, Rollout, TimeStep, no_carry


class PPOState(flax.struct.PyTreeNode):
    """Everything PPO carries from one update to the next."""

    params: PyTree
    optimizer: Any
    novelty: Any  # NoveltyState, or () without intrinsic reward
    observations: Any  # Running [n], or ()
    returns: Any  # (Running [], discounted sums [B]), or ()


class Minibatch(flax.struct.PyTreeNode):
    """Flattened steps that the loss sees; n = T * B in all."""

    observation: Array  # [n, ...]
    action: Array  # [n, ...]
    log_prob: Array  # [n] of the action under the policy that acted
    advantage: Array  # [n]
    target: Array  # [n, heads]
    gate: Array  # [n] bool, the memory chose the action
    valid: Array  # [n] bool


class Learner(NamedTuple):
    """PPO for one environment, as parts for the agents built on it. Static and hashable; holds no arrays."""

    config: PPOConfig
    spec: EnvSpec
    net: ActorCritic
    optimizer: optax.GradientTransformation
    novelty: Novelty | None


def make_ppo(config: PPOConfig, spec: EnvSpec, num_envs: int) -> Agent:
    """The agent called "ppo". Raises ConfigError where spec and config do not fit."""
    return ppo_agent(make_learner(config, spec), num_envs)


def ppo_agent(learner: Learner, num_envs: int) -> Agent:
    """A learner that acts by its own policy alone."""
    return Agent(
        init=partial(init, learner, num_envs),
        initial_carry=no_carry,
        act=partial(act, learner),
        update=partial(update, learner),
        rollout_steps=learner.config.rollout_steps,
        policies=("policy", "greedy"),
        acting=acting,
        bonus=partial(bonus, learner) if learner.novelty else None,
    )


def make_learner(config: PPOConfig, spec: EnvSpec) -> Learner:
    """Networks, optimiser and intrinsic reward for one environment.

    Raises ConfigError where they cannot take its observations.
    """
    if config.encoder == "conv" and not (spec.is_image and min(spec.observation_shape[1:]) >= 36):
        expected = "'mlp' unless observations are images of at least 36 x 36"
        raise ConfigError("agent.encoder", expected, f"'conv' for {spec.id} of {spec.observation_shape}")
    if config.normalize_observations and spec.is_image:
        raise ConfigError("agent.normalize_observations", f"False for the images of {spec.id}", True)
    novelty = make_novelty(config.novelty, spec)
    heads = 2 if novelty else 1
    net = ActorCritic(
        spec.action, config.encoder, config.widths, config.activation, heads=heads, shared=config.shared_torso
    )
    return Learner(config, spec, net, make_optimizer(config), novelty)


def make_optimizer(config: PPOConfig) -> optax.GradientTransformation:
    """Adam behind a global-norm clip, the learning rate constant or decaying linearly."""
    rate = config.learning_rate
    steps = config.anneal_updates * config.epochs * config.minibatches
    schedule = optax.linear_schedule(rate, 0.0, steps) if steps else rate
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(schedule, eps=1e-5))


def init(learner: Learner, num_envs: int, key: Key) -> PPOState:
    """The state before the first rollout of `num_envs` environments."""
    config, spec, novelty = learner.config, learner.spec, learner.novelty
    key_net, key_novelty = jax.random.split(key)
    params = learner.net.init(key_net, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
    return PPOState(
        params=params,
        optimizer=learner.optimizer.init(params),
        novelty=novelties.init(novelty, key_novelty, num_envs) if novelty else (),
        observations=Running.init(spec.observation_shape) if config.normalize_observations else (),
        returns=(Running.init(), jnp.zeros(num_envs)) if config.scale_rewards else (),
    )


def observe(learner: Learner, state: PPOState, observation: Array) -> Array:
    """Observations [..., n] as the networks see them: normalised where the config asks for it."""
    if not learner.config.normalize_observations:
        return observation
    return state.observations.standardize(observation, 10.0)


def distribution(learner: Learner, state: PPOState, observation: Array) -> Distribution:
    """The policy's distribution over actions at observations [n, ...]."""
    seen = observe(learner, state, observation)
    return cast(Distribution, learner.net.apply(state.params, seen, method="policy"))


def values(learner: Learner, state: PPOState, observation: Array) -> Array:
    """The values [n, heads] of observations [n, ...]: of the task's reward, then of the intrinsic one."""
    return cast(Array, learner.net.apply(state.params, observe(learner, state, observation), method="value"))


def bonus(learner: Learner, state: PPOState, observation: Array) -> Array:
    """The intrinsic reward [n] of observations [n, ...]."""
    assert learner.novelty is not None
    return novelties.bonus(learner.novelty, state.novelty, observation)


def act(
    learner: Learner, state: PPOState, carry: PyTree, timestep: TimeStep, key: Key, *, policy: str = "policy"
) -> Action:
    """Actions of a batch: drawn from the policy, or its modes where `policy` is "greedy"."""
    found = distribution(learner, state, timestep.observation)
    action = found.mode() if policy == "greedy" else found.sample(key)
    return Action(action, carry, {"log_prob": found.log_prob(action)})


def acting(state: PPOState) -> PPOState:
    """What `act` reads: parameters and observation statistics."""
    return state.replace(optimizer=(), novelty=(), returns=())


def update(
    learner: Learner, state: PPOState, rollout: Rollout, key: Key
) -> tuple[PPOState, dict[str, Array]]:
    """One update where the policy chose every action."""
    state, metrics, _ = learn(learner, state, rollout, jnp.zeros_like(rollout.valid), key)
    return state, metrics


def learn(
    learner: Learner, state: PPOState, rollout: Rollout, gate: Array, key: Key
) -> tuple[PPOState, dict[str, Array], Array]:
    """One update, steps 1 to 4 of this module.

    Args:
      learner: the static parts.
      state: PPO's state.
      rollout: T steps of B environments, with "log_prob" [T, B] in its extras.
      gate: [T, B] bool, True where a memory chose the action.
      key: of the order of minibatches and of what the novelty module is trained on.

    Returns:
      The state, metrics, and the combined advantages [T, B].
    """
    key_epochs, key_novelty = jax.random.split(key)
    state, reward = _measure(learner, state, rollout)
    novelty, metrics, extra = learner.novelty, {}, jnp.zeros_like(reward)
    if novelty:
        novel, extra, metrics = novelties.rewards(
            novelty, state.novelty, rollout.next_observation, rollout.valid
        )
        state = state.replace(novelty=novel)
    advantage, target = advantages(
        learner.config, rollout, reward, extra, *_values_along(learner, state, rollout)
    )
    batch = Minibatch(
        observation=observe(learner, state, rollout.observation[:-1]),
        action=rollout.action,
        log_prob=rollout.extras["log_prob"],
        advantage=advantage,
        target=target,
        gate=gate,
        valid=rollout.valid,
    )
    state, more = fit(learner, state, jax.tree.map(_merge, batch), key_epochs)
    metrics |= more
    if novelty:
        novel, more = novelties.learn(
            novelty, state.novelty, rollout.next_observation, rollout.valid, key_novelty
        )
        state, metrics = state.replace(novelty=novel), metrics | more
    return state, metrics, advantage


def _measure(learner: Learner, state: PPOState, rollout: Rollout) -> tuple[PPOState, Array]:
    """Takes the rollout into the running statistics; returns the task's reward to learn from, [T, B]."""
    config, reward = learner.config, rollout.reward * rollout.valid
    if config.normalize_observations:
        seen = _merge(rollout.observation[:-1])
        state = state.replace(observations=state.observations.update(seen, rollout.valid.reshape(-1)))
    if not config.scale_rewards:
        return state, reward
    spread, running = state.returns
    sums, running = discounted_sums(reward, rollout.done, running, discount=config.discount)
    spread = spread.update(sums.reshape(-1), rollout.valid.reshape(-1))
    return state.replace(returns=(spread, running)), jnp.clip(reward / spread.std, -10.0, 10.0)


def _values_along(learner: Learner, state: PPOState, rollout: Rollout) -> tuple[Array, Array]:
    """Values of the states and of their true successors, [T, B, heads] each."""
    t, b = rollout.reward.shape
    heads = learner.net.heads
    if rollout.final_observation is None:
        both = values(learner, state, _merge(rollout.observation)).reshape(t + 1, b, heads)
        return both[:-1], both[1:]
    states = _merge(rollout.observation[:-1]), _merge(rollout.final_observation)
    now, after = (values(learner, state, s).reshape(t, b, heads) for s in states)
    return now, after


def advantages(
    config: PPOConfig, rollout: Rollout, reward: Array, bonus: Array, value: Array, next_value: Array
) -> tuple[Array, Array]:
    """Generalised advantages of the task's and of the intrinsic reward, and what the values should become.

    The intrinsic stream does not end with the episode (Burda et al. 2018, section 2.3): its successor value
    is that of the true successor, and no episode end cuts it.

    Args:
      config: discounts, lambda and the weights of the streams.
      rollout: where episodes end.
      reward: [T, B] of the task.
      bonus: [T, B] the intrinsic reward; unused where there is one head.
      value: [T, B, heads] of the states.
      next_value: [T, B, heads] of the true successors.

    Returns:
      The combined advantages [T, B], and the value targets [T, B, heads].
    """
    ends = {"terminated": rollout.terminated, "done": rollout.done}
    extrinsic = generalized_advantage(
        reward, value[..., 0], next_value[..., 0], **ends, discount=config.discount, decay=config.gae_decay
    )
    if value.shape[-1] == 1:
        return extrinsic, (extrinsic + value[..., 0])[..., None]
    never = jnp.zeros_like(rollout.done)
    intrinsic = generalized_advantage(
        bonus,
        value[..., 1],
        next_value[..., 1],
        terminated=never,
        done=never,
        discount=config.novelty.discount,
        decay=config.gae_decay,
    )
    total = config.extrinsic_weight * extrinsic + config.intrinsic_weight * intrinsic
    return total, jnp.stack([extrinsic, intrinsic], axis=-1) + value


def fit(learner: Learner, state: PPOState, batch: Minibatch, key: Key) -> tuple[PPOState, dict[str, Array]]:
    """Epochs of minibatches over a batch of n steps, one optimiser step each; metrics are their means."""
    config, n = learner.config, batch.valid.shape[0]
    # One sort of random bits per epoch: a permutation, for less than jax.random.permutation's two sorts.
    bits = jax.random.bits(key, (config.epochs, n))
    order = jnp.argsort(bits, axis=-1).reshape(config.epochs * config.minibatches, -1)
    step = partial(_step, learner, batch)
    (params, opt_state), metrics = jax.lax.scan(step, (state.params, state.optimizer), order)
    return state.replace(params=params, optimizer=opt_state), jax.tree.map(jnp.mean, metrics)


def _step(
    learner: Learner, batch: Minibatch, carry: tuple[PyTree, Any], index: Array
) -> tuple[tuple[PyTree, Any], dict[str, Array]]:
    """One optimiser step on the rows `index` of a batch."""
    params, opt_state = carry
    part = jax.tree.map(lambda x: x[index], batch)
    (_, metrics), gradient = jax.value_and_grad(partial(loss, learner), has_aux=True)(params, part)
    updates, opt_state = learner.optimizer.update(gradient, opt_state, params)
    metrics["loss/grad_norm"] = optax.tree.norm(gradient)
    return (optax.apply_updates(params, updates), opt_state), metrics


def loss(learner: Learner, params: PyTree, batch: Minibatch) -> tuple[Array, dict[str, Array]]:
    """The loss of a minibatch [n] and its metrics.

    Steps with `gate` True reach the values only, unless `offpolicy` says otherwise (spec AdaMemento 6.2).
    """
    config = learner.config
    found, value = cast(tuple[Distribution, Array], learner.net.apply(params, batch.observation))
    own = batch.valid & ~batch.gate
    mean = masked_mean(batch.advantage, own)
    spread = jnp.sqrt(masked_mean((batch.advantage - mean) ** 2, own))
    advantage = (batch.advantage - mean) / (spread + 1e-8)
    log_prob = found.log_prob(batch.action)
    log_ratio = log_prob - batch.log_prob
    policy = losses.clipped_policy_loss(log_ratio, advantage, own, clip=config.clip)
    memory = jnp.zeros(())
    gated = batch.valid & batch.gate
    if config.offpolicy == "is":
        memory = losses.memory_step_loss(log_prob, batch.log_prob, advantage, gated, clip=config.clip)
    elif config.offpolicy == "bc":
        memory = config.clone_weight * losses.clone_loss(log_prob, gated * (batch.advantage > 0.0))
    error = losses.value_loss(value, batch.target, batch.valid)
    entropy = masked_mean(found.entropy(), own)
    total = policy + memory + config.value_cost * error - config.entropy_cost * entropy
    return total, {
        "loss/policy": policy,
        "loss/value": error,
        "loss/entropy": entropy,
        "loss/kl": masked_mean(jnp.exp(log_ratio) - 1.0 - log_ratio, own),
        "loss/clipped": masked_mean(jnp.abs(jnp.exp(log_ratio) - 1.0) > config.clip, own),
    } | ({"loss/memory": memory} if config.offpolicy != "mask" else {})


def _merge(x: Array) -> Array:
    """[T, B, ...] -> [T * B, ...]."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
