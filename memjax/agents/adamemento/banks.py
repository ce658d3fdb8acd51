"""The memories of success and of failure: what they store of an episode, their keys, and steps drawn again.

One bank has one slot per step. Values of a slot: the observation, the action, steps to the episode's end
("to_go"), the episode's return, the share of its steps that the memory chose ("gate_share"), and whether it
is held out for calibration ("holdout"); where the policy imitates successes, the discounted return from the
step on ("gain"). A slot's group is the number of its episode.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from memjax.agents.adamemento.config import AdaMementoConfig, BanksConfig
from memjax.agents.online.episodes import Episodes
from memjax.agents.online.novelty import frame_size, last_frame
from memjax.memory import Memory, MemoryState, make_memory
from memjax.ops.returns import returns_to_go
from memjax.types import Array, EnvSpec, Key

Observe = Callable[[Array], Array]  # stored observations [n, ...] -> as the networks see them


class Steps(flax.struct.PyTreeNode):
    """n steps drawn from a bank."""

    slots: Array  # [n] i32, where they came from
    observation: Array  # [n, ...] as the networks see it
    action: Array  # [n, ...]
    to_go: Array  # [n] i32, steps to the episode's end
    gate_share: Array  # [n] f32
    train: Array  # [n] f32, 1 where there is a step to train on
    held: Array  # [n] f32, 1 where it is held out for calibration


def make_bank(
    config: AdaMementoConfig, spec: EnvSpec, *, evict: str, make: Callable[..., Memory] = make_memory
) -> Memory:
    """A bank of steps of `spec`, the environment as the banks store it. Raises ConfigError.

    `make` is `make_memory`, or one with its arguments that splits the slots over devices.
    """
    value_like = {
        "observation": jnp.zeros(spec.observation_shape, spec.observation_dtype),
        "action": spec.zero_actions(),
        "to_go": jnp.zeros((), jnp.int32),
        "return": jnp.zeros(()),
        "gate_share": jnp.zeros(()),
        "holdout": jnp.zeros((), bool),
    }
    if config.reflection.imitation_weight:
        value_like["gain"] = jnp.zeros(())
    key_dim = config.bank.key_dim or frame_size(spec)
    k = config.reflection.neighbours
    return make(config.bank.capacity, key_dim, value_like, evict=evict, k=k, metric="l2")


def stored_spec(banks: BanksConfig, spec: EnvSpec) -> EnvSpec:
    """The environment as the banks store it: one plane of an image, or the whole observation."""
    if not (banks.last_frame and spec.is_image):
        return spec
    return spec._replace(observation_shape=(1, *spec.observation_shape[1:]))


def stored(banks: BanksConfig, observation: Array) -> Array:
    """Observations [..., C, H, W] or [..., n] as the banks store them."""
    return observation[..., -1:, :, :] if banks.last_frame and observation.ndim >= 4 else observation


def make_projection(banks: BanksConfig, spec: EnvSpec, key: Key) -> Array:
    """The matrix [d, D] from observations to keys; [1, 1] where the key is the observation itself.

    Gaussian, which keeps distances (Johnson-Lindenstrauss).
    """
    if not banks.key_dim:
        return jnp.ones((1, 1))
    return jax.random.normal(key, (frame_size(spec), banks.key_dim)) / jnp.sqrt(float(banks.key_dim))


def keys_of(projection: Array, observation: Array, spec: EnvSpec) -> Array:
    """[n, ...] -> [n, D]: the vector, or the newest plane of an image, projected."""
    flat = last_frame(observation, spec)
    return flat if projection.shape == (1, 1) else flat @ projection


def write_episodes(
    memory: Memory,
    bank: MemoryState,
    projection: Array,
    spec: EnvSpec,
    episodes: Episodes,
    worth: Array,
    first_id: Array,
    *,
    holdout: int,
    discount: float = 1.0,
) -> MemoryState:
    """The bank after E episodes of L steps were written, step by step.

    Args:
      memory: of the bank.
      bank: its state.
      projection: from observations to keys.
      spec: the environment as the banks store it.
      episodes: padded where fewer than E ended; padding is not written.
      worth: [E] f32, the utility of all steps of an episode.
      first_id: [] i32, the number of the first episode; the others follow it.
      holdout: every so-many-th episode is kept for calibration; 0: none.
      discount: of "gain", where the bank has it.
    """
    count, length = episodes.mask.shape
    ids = first_id + jnp.cumsum(episodes.chosen) - 1
    # Why the last of so many: the first success of a run is to be learned from at once.
    held = (ids % holdout == holdout - 1) if holdout else jnp.zeros_like(episodes.chosen)
    flat = episodes.observation.reshape(count * length, *episodes.observation.shape[2:])

    def spread(x: Array) -> Array:
        return jnp.repeat(x, length)

    values = {
        "observation": flat,
        "action": episodes.action.reshape(count * length, *episodes.action.shape[2:]),
        "to_go": jnp.tile(jnp.arange(length - 1, -1, -1, dtype=jnp.int32), count),
        "return": spread(episodes.episode_return),
        "gate_share": spread(episodes.gate_share),
        "holdout": spread(held),
    }
    if "gain" in bank.values:
        gain = returns_to_go(episodes.reward, episodes.mask, discount=discount)
        values["gain"] = gain.reshape(count * length)
    bank, _ = memory.write(
        bank,
        keys_of(projection, flat, spec),
        values,
        utility=spread(worth),
        group=spread(ids.astype(jnp.int32)),
        mask=episodes.mask.reshape(-1),
    )
    return bank


def draw(memory: Memory, bank: MemoryState, observe: Observe, n: int, key: Key) -> Steps:
    """n steps of a bank, uniformly, with replacement; `train` and `held` are 0 where it is empty."""
    values, slots, mask = memory.sample(bank, key, n)
    held = values["holdout"] & mask
    return Steps(
        slots=slots,
        observation=observe(values["observation"]),
        action=values["action"],
        to_go=values["to_go"],
        gate_share=values["gate_share"],
        train=(mask & ~held).astype(jnp.float32),
        held=held.astype(jnp.float32),
    )
