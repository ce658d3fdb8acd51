"""The types that every part shares, and the axis letters, once.

Axis letters: B batch of environments, T time, N memory slots, D key width, Q queries, K neighbours,
A actions, E ensemble, S tabular states. Masks are True where the entry is valid.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Key = jax.Array  # a typed `jax.random.key`
PyTree = Any


class ConfigError(ValueError):
    """A mistake of the user: which field, what was expected, what was given. Ends the command with code 2."""

    def __init__(self, field: str, expected: str, got: object):
        super().__init__(f"{_short(field)}: expected {_short(expected, 1000)}, got {_short(got)}")
        self.field, self.expected, self.got = field, expected, got


@contextlib.contextmanager
def within(prefix: str) -> Iterator[None]:
    """Puts `prefix`, such as "agent.", before the field of a ConfigError that is raised in the block.

    A field that has it already stays.
    """
    try:
        yield
    except ConfigError as error:
        field = error.field if error.field.startswith(prefix) else f"{prefix}{error.field}"
        raise ConfigError(field, error.expected, error.got) from None


def _short(value: object, most: int = 300) -> str:
    """Text of `value`; the middle of a long one is left out, as a message is one line that is read."""
    text = str(value)
    return (
        text
        if len(text) <= most
        else f"{text[: most // 2]} ... {text[-most // 3 :]} ({len(text):,} characters)"
    )


class RunEnded(RuntimeError):
    """A run that ended early for a reason outside memjax's code; the message is one line for the user.

    A subclass sets `exit_code`, with which the command ends.
    """

    exit_code = 1


class Discrete(NamedTuple):
    """Actions 0 .. n-1."""

    n: int


class Box(NamedTuple):
    """Real actions of a flat `size`, each within [low, high]."""

    size: int
    low: tuple[float, ...]
    high: tuple[float, ...]


class EnvSpec(NamedTuple):
    """What an agent may know of an environment before it runs. Static and hashable."""

    id: str
    observation_shape: tuple[int, ...]  # [C, H, W] for images, [n] for vectors
    observation_dtype: str  # "float32" or "uint8"
    action: Discrete | Box
    max_episode_steps: int  # 0: no limit
    has_success: bool  # TimeStep.success tells whether the goal was reached
    num_states: int = 0  # S of a tabular environment, for visit counts; 0: not tabular

    @property
    def is_image(self) -> bool:
        """Whether observations are images, channels first."""
        return len(self.observation_shape) == 3

    def zero_actions(self, *leading: int) -> Array:
        """[*leading] i32 or [*leading, size] f32, of the type that acting gives."""
        if isinstance(self.action, Discrete):
            return jnp.zeros(leading, jnp.int32)
        return jnp.zeros((*leading, self.action.size), jnp.float32)


class TimeStep(flax.struct.PyTreeNode):
    """What B environments answered to B actions.

    `observation` is what to act on next: after an episode's end it is the first of the next episode where
    the environment resets in the same step (gymnax), and the last of the ended one where it resets in the
    next (envpool); the step that resets is then a fake transition with `valid` False. Either way
    `final_observation` is the true successor of the action, the one to bootstrap from.
    """

    observation: Array  # [B, ...]
    final_observation: Array  # [B, ...] equal to `observation` unless the environment has reset itself
    reward: Array  # [B] f32
    terminated: Array  # [B] bool, the task ended: the value of what follows is zero
    truncated: Array  # [B] bool, a time limit cut it: bootstrap from `final_observation`
    success: Array  # [B] bool, the goal was reached in this step; False where the task has no goal
    valid: Array  # [B] bool, False for a step that only reset the environment
    state_id: Array  # [B] i32, tabular state arrived at by the action; 0 where the task is not tabular

    @property
    def done(self) -> Array:
        """The episode ended with this step, for either reason."""
        return self.terminated | self.truncated


class EnvInit(Protocol):
    """`Env.init`."""

    def __call__(self, key: Key, batch: int, /) -> tuple[PyTree, TimeStep]:
        """Begins an episode in each of `batch` environments: their state, and the first time step."""
        ...


class EnvStep(Protocol):
    """`Env.step`."""

    def __call__(self, state: PyTree, actions: Array, key: Key, /) -> tuple[PyTree, TimeStep]:
        """Takes actions [B] i32 or [B, size] f32: the state after them, and what they led to."""
        ...


class Atlas(Protocol):
    """`Env.atlas`."""

    def __call__(self, key: Key, /) -> Array:
        """The observation of every state of a tabular environment, [S, ...] in the order of `state_id`."""
        ...


class Env(NamedTuple):
    """An environment in JAX: pure functions over a batch of B."""

    spec: EnvSpec
    init: EnvInit
    step: EnvStep
    atlas: Atlas | None = None  # None where states cannot be listed


class EpisodeStats(flax.struct.PyTreeNode):
    """Running totals of the episode each of B environments is in; the step that ends it is counted."""

    episode_return: Array  # [B] f32, sum of rewards so far
    episode_length: Array  # [B] i32, steps so far

    @classmethod
    def zeros(cls, batch: int) -> "EpisodeStats":
        """No episode has begun."""
        return cls(jnp.zeros(batch, jnp.float32), jnp.zeros(batch, jnp.int32))


class Rollout(flax.struct.PyTreeNode):
    """T steps of B environments under one policy."""

    observation: Array  # [T+1, B, ...] the last one is what the next rollout begins with
    final_observation: Array | None  # [T, B, ...]; None where observation[t+1] is the successor (envpool)
    action: Array  # [T, B, ...]
    reward: Array  # [T, B] f32
    terminated: Array  # [T, B] bool
    truncated: Array  # [T, B] bool
    success: Array  # [T, B] bool
    valid: Array  # [T, B] bool, False for fake transitions
    state_id: Array  # [T, B] i32
    stats: EpisodeStats  # [T, B] each, totals including the step
    extras: Mapping[str, Array]  # [T, B, ...] what `act` wants to remember, log-probabilities above all

    @property
    def done(self) -> Array:
        """[T, B] the episode ended with this step."""
        return self.terminated | self.truncated

    @property
    def next_observation(self) -> Array:
        """[T, B, ...] the true successor of every action."""
        return self.observation[1:] if self.final_observation is None else self.final_observation


class Windows(NamedTuple):
    """The last K steps up to one step, of B places in recorded episodes: what an offline agent learns from.

    Padding stands on the left, as zeros where `mask` is False, so the newest step is always at K - 1.
    Observations are as the agent's networks see them (standardised), returns to go are scaled.
    """

    observations: Array  # [B, K, O] f32
    actions: Array  # [B, K, A] f32 or [B, K] i32
    returns_to_go: Array  # [B, K] f32, this step's reward included
    timesteps: Array  # [B, K] i32, steps since the episode began
    mask: Array  # [B, K] bool, a step of the episode
    episode: Array  # [B] i32, which episode of the data


class Action(NamedTuple):
    """What `act` decides for a batch."""

    action: Array  # [B] i32 or [B, size] f32
    carry: PyTree  # the actor's own state per environment, () where it has none
    extras: dict[str, Array]  # [B, ...] each


class InitAgent(Protocol):
    """`Agent.init`."""

    def __call__(self, key: Key, /) -> PyTree:
        """The agent's state before it has learned: parameters, optimiser, memories, normalisers."""
        ...


class InitialCarry(Protocol):
    """`Agent.initial_carry`."""

    def __call__(self, batch: int, /) -> PyTree:
        """What each of B = `batch` actors carries from step to step, at the beginning of an episode."""
        ...


class Act(Protocol):
    """`Agent.act`."""

    def __call__(
        self, state: PyTree, carry: PyTree, timestep: TimeStep, key: Key, *, policy: str = ...
    ) -> Action:
        """Chooses the actions of B environments; the agent's state is only read.

        Args:
          state: the agent's, or what `Agent.acting` gives of it.
          carry: of B actors, as the step before returned it.
          timestep: what B environments show.
          key: of whatever is drawn.
          policy: one of `Agent.policies`; where none is named, what the agent collects experience with.
        """
        ...


class Update(Protocol):
    """`Agent.update`."""

    def __call__(self, state: PyTree, experience: Any, key: Key, /) -> tuple[PyTree, dict[str, Array]]:
        """Learns from a `Rollout`, or from `Windows` where the agent learns offline.

        Returns the state after it, and scalar metrics by name.
        """
        ...


class Bonus(Protocol):
    """`Agent.bonus`."""

    def __call__(self, state: PyTree, observation: Array, /) -> Array:
        """The intrinsic reward [n] f32 of observations [n, ...]."""
        ...


class Acting(Protocol):
    """`Agent.acting`."""

    def __call__(self, state: PyTree, /) -> PyTree:
        """The state with all that `act` does not read replaced by ()."""
        ...


class Refill(Protocol):
    """`Agent.refill`."""

    def __call__(self, state: PyTree, triplets: Any, /) -> PyTree:
        """The state with its bank filled anew from `Triplets`; everything else is unchanged."""
        ...


class Reindex(Protocol):
    """`Agent.reindex`."""

    def __call__(self, state: PyTree, /) -> PyTree:
        """The state with the indices of its memories made anew, for the shards that they have here."""
        ...


class Credit(Protocol):
    """`Agent.credit`."""

    def __call__(self, state: PyTree, windows: Windows, /) -> PyTree:
        """The state after the entries of its bank were credited for what held-out windows show."""
        ...


def no_carry(batch: int) -> PyTree:
    """The carry of an agent whose actors keep nothing."""
    return ()


def whole_state(state: PyTree) -> PyTree:
    """What acting reads of an agent that says nothing about it: everything."""
    return state


class Agent(NamedTuple):
    """A learner as pure functions; the environment's spec is bound when the agent is made.

    `init` takes no spec: `act` and `update` need it as well, so the factory binds it once.
    """

    init: InitAgent
    initial_carry: InitialCarry
    act: Act
    update: Update
    rollout_steps: int  # T
    policies: tuple[str, ...] = ("policy",)  # names that `act` knows for evaluation, the main one first
    bonus: Bonus | None = None  # None: no intrinsic reward
    acting: Acting = whole_state
    reindex: Reindex = whole_state
    # Of agents that retrieve from a bank filled before they learn:
    refill: Refill | None = None
    credit: Credit | None = None


def zeros_timestep(spec: EnvSpec, batch: int) -> TimeStep:
    """A host-side time step of B = `batch` of the right shapes and types, all zero and valid."""
    observation = np.zeros((batch, *spec.observation_shape), spec.observation_dtype)
    no = np.zeros(batch, bool)
    fields: dict[str, Any] = dict(  # NumPy's arrays stand for JAX's on the host
        observation=observation,
        final_observation=observation,
        reward=np.zeros(batch, np.float32),
        terminated=no,
        truncated=no,
        success=no,
        valid=~no,
        state_id=np.zeros(batch, np.int32),
    )
    return TimeStep(**fields)
