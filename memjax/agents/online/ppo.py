"""Proximal policy optimisation (Schulman et al. 2017), with an optional intrinsic reward (PPO+RND).

One update of a rollout, in this order:
  1. intrinsic reward of the true successors, under the novelty module as it was;
  2. values of all states at once; advantages of each reward stream (GAE); their weighted sum;
  3. epochs of minibatches: clipped policy loss, value losses, entropy, one Adam step each;
  4. the novelty module learns.

The policy terms of a step count only where `gate` is False, so that AdaMemento can pass steps whose action
its memory chose (spec AdaMemento, section 6); plain PPO passes none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memjax.agents.online.novelty import Novelty, NoveltyConfig, make_novelty
from memjax.networks.actor_critic import ActorCritic
from memjax.networks.distributions import Distribution
from memjax.ops import losses
from memjax.ops.returns import discounted_sums, generalized_advantage
from memjax.ops.statistics import Running, masked_mean
from memjax.schema import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Widths
from memjax.types import Action, Agent, Array, ConfigError, EnvSpec, Key, PyTree, Rollout, TimeStep


@dataclass(frozen=True)
class PPOConfig:
    """PPO's part of a config, the same for PPO, PPO+RND, PPO+SIL and AdaMemento."""

    rollout_steps: PositiveInt  # T
    epochs: PositiveInt
    minibatches: PositiveInt
    learning_rate: PositiveFloat
    anneal_updates: int  # linear decay to 0 over this many rollouts; 0: constant
    max_grad_norm: PositiveFloat
    clip: PositiveFloat
    discount: Fraction  # gamma_ext
    gae_decay: Fraction  # lambda
    entropy_cost: NonNegativeFloat
    value_cost: NonNegativeFloat
    encoder: Literal["mlp", "conv"]
    shared_torso: bool
    widths: Widths
    activation: Literal["tanh", "relu"]
    normalize_observations: bool  # running mean and std, clipped to +-10; vectors only
    scale_rewards: bool  # by the running std of the discounted return, clipped to +-10
    reward_mix: Literal["two_heads", "single"]
    extrinsic_weight: NonNegativeFloat  # c_ext
    intrinsic_weight: NonNegativeFloat  # c_int
    offpolicy: Literal["mask", "is", "bc"]  # what PPO makes of actions it did not choose
    clone_weight: NonNegativeFloat  # eta of "bc"
    novelty: NoveltyConfig

    def check_batch(self, num_envs: int) -> None:
        """Raises ConfigError unless the rollout divides into the minibatches."""
        steps = num_envs * self.rollout_steps
        if steps % self.minibatches:
            expected = (
                f"a divisor of env.num_envs * rollout_steps = {num_envs} * {self.rollout_steps} = {steps}"
            )
            raise ConfigError("minibatches", expected, self.minibatches)


class PPOState(flax.struct.PyTreeNode):
    """Everything PPO carries from one update to the next."""

    params: PyTree
    optimizer: Any
    novelty: Any  # NoveltyState, or () without intrinsic reward
    observations: Any  # Running [n], or ()
    returns: Any  # (Running [], discounted sums [B]), or ()


class Batch(flax.struct.PyTreeNode):
    """Flattened steps that the loss sees; n = T * B in all."""

    observation: Array  # [n, ...]
    action: Array  # [n, ...]
    log_prob: Array  # [n] of the action under the policy that acted
    advantage: Array  # [n]
    target: Array  # [n, heads]
    gate: Array  # [n] bool, the memory chose the action
    valid: Array  # [n] bool


class Learner(NamedTuple):
    """PPO as parts, for the agents built on it."""

    init: Callable[[Key, int], PPOState]  # (key, B)
    policy: Callable[[PPOState, Array], Distribution]
    value: Callable[[PPOState, Array], Array]  # (state, observations [n, ...]) -> [n, heads]
    update: Callable[[PPOState, Rollout, Array, Key], tuple[PPOState, dict[str, Array], Array]]
    observe: Callable[[PPOState, Array], Array]  # normalised observations
    novelty: Novelty | None
    apply: Callable[[PyTree, Array], tuple[Distribution, Array]]  # (params, normalised [n, ...])
    optimizer: optax.GradientTransformation


def make_ppo(config: PPOConfig, spec: EnvSpec, num_envs: int) -> Agent:
    """The agent called "ppo". Raises ConfigError where spec and config do not fit."""
    return ppo_agent(config, make_learner(config, spec), num_envs)


def ppo_agent(config: PPOConfig, learner: Learner, num_envs: int) -> Agent:
    """A learner that acts by its own policy alone."""
    novelty = learner.novelty

    def act(
        state: PPOState, carry: PyTree, timestep: TimeStep, key: Key, *, policy: str = "policy"
    ) -> Action:
        distribution = learner.policy(state, timestep.observation)
        action = distribution.mode() if policy == "greedy" else distribution.sample(key)
        return Action(action, carry, {"log_prob": distribution.log_prob(action)})

    def update(state: PPOState, rollout: Rollout, key: Key) -> tuple[PPOState, dict[str, Array]]:
        state, metrics, _ = learner.update(state, rollout, jnp.zeros_like(rollout.valid), key)
        return state, metrics

    return Agent(
        init=lambda key: learner.init(key, num_envs),
        initial_carry=lambda batch: (),
        act=act,
        update=update,
        rollout_steps=config.rollout_steps,
        policies=("policy", "greedy"),
        acting=acting_part,
        bonus=novelty and (lambda state, obs: novelty.scaled(state.novelty, obs)),
    )


def acting_part(state: PPOState) -> PPOState:
    """Parameters and observation statistics."""
    return state.replace(optimizer=(), novelty=(), returns=())


def make_learner(config: PPOConfig, spec: EnvSpec) -> Learner:
    """Binds networks, optimiser and losses to one environment."""
    check_spec(config, spec)
    novelty = make_novelty(config.novelty, spec)
    heads = 2 if novelty and config.reward_mix == "two_heads" else 1
    net = ActorCritic(
        spec.action, config.encoder, config.widths, config.activation, heads=heads, shared=config.shared_torso
    )
    optimizer = make_optimizer(config)

    def observe(state: PPOState, observation: Array) -> Array:
        return (
            state.observations.standardize(observation, 10.0)
            if config.normalize_observations
            else observation
        )

    def init(key: Key, batch: int) -> PPOState:
        key_net, key_novelty = jax.random.split(key)
        params = net.init(key_net, jnp.zeros((1, *spec.observation_shape), spec.observation_dtype))
        return PPOState(
            params=params,
            optimizer=optimizer.init(params),
            novelty=novelty.init(key_novelty, batch) if novelty else (),
            observations=Running.init(spec.observation_shape) if config.normalize_observations else (),
            returns=(Running.init(), jnp.zeros(batch)) if config.scale_rewards else (),
        )

    def policy(state: PPOState, observation: Array) -> Distribution:
        return net.apply(state.params, observe(state, observation), method="policy")  # type: ignore

    def value(state: PPOState, observation: Array) -> Array:
        return net.apply(state.params, observe(state, observation), method="value")  # type: ignore

    def values_of(state: PPOState, rollout: Rollout) -> tuple[Array, Array]:
        """Values of the states and of their true successors, [T, B, heads] each."""
        t, b = rollout.reward.shape
        if rollout.final_observation is None:
            both = value(state, _merge(rollout.observation)).reshape(t + 1, b, heads)
            return both[:-1], both[1:]
        states = _merge(rollout.observation[:-1]), _merge(rollout.final_observation)
        now, after = (value(state, s).reshape(t, b, heads) for s in states)
        return now, after

    def update(state: PPOState, rollout: Rollout, gate: Array, key: Key):
        key_epochs, key_novelty = jax.random.split(key)
        state, reward = measure(state, rollout)
        metrics: dict[str, Array] = {}
        bonus = jnp.zeros_like(reward)
        if novelty:
            novel, bonus, more = novelty.rewards(state.novelty, rollout.next_observation, rollout.valid)
            state, metrics = state.replace(novelty=novel), metrics | more
        advantage, target = advantages(config, rollout, reward, bonus, *values_of(state, rollout))
        batch = Batch(
            observation=observe(state, rollout.observation[:-1]),
            action=rollout.action,
            log_prob=rollout.extras["log_prob"],
            advantage=advantage,
            target=target,
            gate=gate,
            valid=rollout.valid,
        )
        state, more = fit(state, jax.tree.map(_merge, batch), key_epochs)
        metrics |= more
        if novelty:
            novel, more = novelty.learn(state.novelty, rollout.next_observation, rollout.valid, key_novelty)
            state, metrics = state.replace(novelty=novel), metrics | more
        return state, metrics, advantage

    def measure(state: PPOState, rollout: Rollout):
        """Takes the rollout into the running statistics; returns the extrinsic reward to learn from."""
        reward = rollout.reward * rollout.valid
        if config.normalize_observations:
            seen = _merge(rollout.observation[:-1])
            state = state.replace(observations=state.observations.update(seen, rollout.valid.reshape(-1)))
        if not config.scale_rewards:
            return state, reward
        spread, running = state.returns
        sums, running = discounted_sums(reward, rollout.done, running, discount=config.discount)
        spread = spread.update(sums.reshape(-1), rollout.valid.reshape(-1))
        return state.replace(returns=(spread, running)), jnp.clip(reward / spread.std, -10.0, 10.0)

    def apply(params: PyTree, observation: Array) -> tuple[Distribution, Array]:
        return net.apply(params, observation)  # type: ignore[return-value]

    def loss(params: PyTree, batch: Batch):
        return ppo_loss(config, *apply(params, batch.observation), batch)

    def fit(state: PPOState, batch: Batch, key: Key):
        n = batch.valid.shape[0]

        def minibatch(carry, index):
            params, opt_state = carry
            part = jax.tree.map(lambda x: x[index], batch)
            (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, part)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            squares = jax.tree.map(lambda g: jnp.sum(g**2), gradient)
            metrics["loss/grad_norm"] = jnp.sqrt(jax.tree.reduce(jnp.add, squares))
            return (optax.apply_updates(params, updates), opt_state), metrics

        # One sort of random bits per epoch: a permutation, for less than jax.random.permutation's two sorts.
        bits = jax.random.bits(key, (config.epochs, n))
        order = jnp.argsort(bits, axis=-1).reshape(config.epochs * config.minibatches, -1)
        (params, opt_state), metrics = jax.lax.scan(minibatch, (state.params, state.optimizer), order)
        return state.replace(params=params, optimizer=opt_state), jax.tree.map(jnp.mean, metrics)

    return Learner(init, policy, value, update, observe, novelty, apply, optimizer)


def check_spec(config: PPOConfig, spec: EnvSpec) -> None:
    """Raises ConfigError where the networks cannot take the environment's observations."""
    if config.encoder == "conv" and not (spec.is_image and min(spec.observation_shape[1:]) >= 36):
        expected = "'mlp' unless observations are images of at least 36 x 36"
        raise ConfigError("agent.encoder", expected, f"'conv' for {spec.id} of {spec.observation_shape}")
    if config.normalize_observations and spec.is_image:
        raise ConfigError("agent.normalize_observations", f"False for the images of {spec.id}", True)


def make_optimizer(config: PPOConfig) -> optax.GradientTransformation:
    """Adam behind a global-norm clip, the learning rate constant or decaying linearly."""
    rate = config.learning_rate
    steps = config.anneal_updates * config.epochs * config.minibatches
    schedule = optax.linear_schedule(rate, 0.0, steps) if steps else rate
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(schedule, eps=1e-5))


def advantages(
    config: PPOConfig, rollout: Rollout, reward: Array, bonus: Array, value: Array, next_value: Array
) -> tuple[Array, Array]:
    """Combined advantages [T, B] and value targets [T, B, heads]; value, next_value [T, B, heads].

    The intrinsic stream does not end with the episode (Burda et al. 2018, section 2.3): its successor value
    is that of the true successor, and no episode end cuts it.
    """
    ends = {"terminated": rollout.terminated, "done": rollout.done}
    single = config.reward_mix == "single"
    if single:
        reward = reward + config.intrinsic_weight * bonus
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


def ppo_loss(config: PPOConfig, distribution: Distribution, values: Array, batch: Batch):
    """The loss of a minibatch [n] and its metrics. Steps with `gate` True reach the values only, unless
    `offpolicy` says otherwise (spec AdaMemento 6.2)."""
    own = batch.valid & ~batch.gate
    mean = masked_mean(batch.advantage, own)
    spread = jnp.sqrt(masked_mean((batch.advantage - mean) ** 2, own))
    advantage = (batch.advantage - mean) / (spread + 1e-8)
    log_prob = distribution.log_prob(batch.action)
    log_ratio = log_prob - batch.log_prob
    policy = losses.clipped_policy_loss(log_ratio, advantage, own, clip=config.clip)
    memory = jnp.zeros(())
    gated = batch.valid & batch.gate
    if config.offpolicy == "is":
        memory = losses.memory_step_loss(log_prob, batch.log_prob, advantage, gated, clip=config.clip)
    elif config.offpolicy == "bc":
        memory = config.clone_weight * losses.clone_loss(log_prob, gated * (batch.advantage > 0.0))
    value = losses.value_loss(values, batch.target, batch.valid)
    entropy = masked_mean(distribution.entropy(), own)
    total = policy + memory + config.value_cost * value - config.entropy_cost * entropy
    return total, {
        "loss/policy": policy,
        "loss/value": value,
        "loss/entropy": entropy,
        "loss/kl": masked_mean(jnp.exp(log_ratio) - 1.0 - log_ratio, own),
        "loss/clipped": masked_mean(jnp.abs(jnp.exp(log_ratio) - 1.0) > config.clip, own),
    } | ({"loss/memory": memory} if config.offpolicy != "mask" else {})


def _merge(x: Array) -> Array:
    """[T, B, ...] -> [T * B, ...]."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
