"""What MemRL's memory is to those who use it: the signatures of its functions, and what a retrieval finds.

Axis letters: B tasks, k2 memories injected into each (`keep` of the config), D width of an intent, N slots.
"""

from typing import NamedTuple, Protocol

from memjax.agents.memrl.config import MemRLConfig
from memjax.memory import Init, Memory, MemoryState
from memjax.types import Array, Key, PyTree


class Found(NamedTuple):
    """The memories injected for each of B tasks, best first; where `mask` is False there is none."""

    payload: PyTree  # [B, k2, ...] each leaf, zero where there is none
    slots: Array  # [B, k2] i32; N where there is none
    ids: Array  # [B, k2] i32; -1 where there is none
    mask: Array  # [B, k2] bool
    similarity: Array  # [B, k2] f32; -inf where there is none
    utility: Array  # [B, k2] f32 when it was retrieved; 0 where there is none
    task: Array  # [B, k2] i32, which task each is from; -1 where there is none
    pool: Array  # [B] i32, how many memories there were to choose from
    clock: Array  # [] i32, insertions before the retrieval: `learn` at a later one used a stale memory


class Retrieve(Protocol):
    """The signature of `MemRL.retrieve`."""

    def __call__(self, state: MemoryState, intents: Array, *, key: Key | None = None) -> Found:
        """The memories to inject for each of B tasks (section 3 of the paper); the state is not changed.

        Args:
            state: the memory.
            intents: [B, D] f32, of any norm: they are compared by cosine.
            key: a random key, needed where the config's `epsilon` asks for exploration.

        Returns:
            `Found`, each field [B, k2], best first.

        Raises:
            ConfigError: intents of another width, or no `key` though `epsilon` is above 0.
        """
        ...


class Credit(Protocol):
    """The signature of `MemRL.credit`."""

    def __call__(
        self,
        state: MemoryState,
        found: Found,
        rewards: Array,
        *,
        mask: Array | None = None,
        without: Array | None = None,
    ) -> MemoryState:
        """Q <- Q + alpha (r - Q) for every memory that was injected, as if task by task.

        With the config's `credit` "similarity" a memory's step is scaled by its similarity over the largest
        among those injected; with "leave_one_out" a memory earns the reward minus what the task earns without
        it. A memory that was evicted meanwhile gets nothing, and neither does its successor in the slot. With
        `lineage` above 0 the memories that those were built on learn too, with a step that shrinks by that
        factor from one generation to the next.

        Args:
            state: the memory.
            found: what was injected.
            rewards: [B] of the tasks. One that is not finite is refused and counted in `refused`.
            mask: [B] bool, the tasks that have a reward (default: all).
            without: [B, k2] with "leave_one_out", the reward of the task without each memory, which whoever
                can replay the task must give; None otherwise.

        Returns:
            The state with new utilities and visits; the memories count as read.

        Raises:
            ConfigError: `without` is missing, or given where it has no meaning.
        """
        ...


class Insert(Protocol):
    """The signature of `MemRL.insert`."""

    def __call__(
        self,
        state: MemoryState,
        intents: Array,
        payload: PyTree,
        *,
        success: Array | None = None,
        utility: Array | None = None,
        task: Array | None = None,
        writer: Array | None = None,
        built_on: Array | None = None,
        quarantined: Array | None = None,
        trust: Array | None = None,
        mask: Array | None = None,
    ) -> tuple[MemoryState, Array]:
        """Stores B experiences under their intents, as if one by one.

        Args:
            state: the memory.
            intents: [B, D] f32. An experience whose intent is not finite is refused and counted in `refused`.
            payload: the tree of `payload_like` with an axis B in front of every leaf.
            success: [B] bool, chooses the first utility (`initial_success` or `initial_failure`) unless
                `utility` is given; neither: that of a success.
            utility: [B] f32, the first utilities.
            task: [B] i32, the task of each; -1 (the default) for none.
            writer: [B] i32, who wrote each; -1 (the default) for not said.
            built_on: [B, k2] i32, ids of the memories that were injected when each was made; -1 for none.
            quarantined: [B] bool, hidden from retrieval from the start.
            trust: [B] i32, in their sources (default: 2); see `least_trust` of the config.
            mask: [B] bool, which to store (default: all).

        Returns:
            The state after, and slots [B] i32; N where an experience is not stored.

        Raises:
            ConfigError: a shape or type does not fit.
        """
        ...


class Learn(Protocol):
    """The signature of `MemRL.learn`."""

    def __call__(
        self,
        state: MemoryState,
        found: Found,
        rewards: Array,
        intents: Array,
        payload: PyTree,
        *,
        scored: Array | None = None,
        without: Array | None = None,
        success: Array | None = None,
        utility: Array | None = None,
        task: Array | None = None,
        writer: Array | None = None,
        built_on: Array | None = None,
        quarantined: Array | None = None,
        trust: Array | None = None,
        mask: Array | None = None,
    ) -> tuple[MemoryState, Array]:
        """`credit`, then `insert`: the utilities of what was injected and the new experience, in one program.

        Args:
            state: the memory.
            found: what was injected.
            rewards: [B] of the tasks.
            intents: [B, D] f32, of the tasks.
            payload: what each task leaves behind.
            scored: [B] bool, the tasks that have a reward: the `mask` of `credit`.
            without: as for `credit`.
            success: this and what follows as for `insert`.
            utility: as for `insert`.
            task: as for `insert`.
            writer: as for `insert`.
            built_on: as for `insert`; by default the ids of `found`.
            quarantined: as for `insert`.
            trust: as for `insert`; lowered to that of the least trusted memory that was injected.
            mask: [B] bool, which experiences to store.

        Returns:
            The state after, and slots [B] i32; N where an experience is not stored.
        """
        ...


class Quarantine(Protocol):
    """The signature of `MemRL.quarantine`."""

    def __call__(self, state: MemoryState, where: Array, on: bool | Array = True) -> MemoryState:
        """Hides memories from retrieval, or shows them again.

        Args:
            state: the memory.
            where: [N] bool, the slots.
            on: [] bool, False to show them again.

        Returns:
            The state in which the memories of `where` are hidden, or shown.
        """
        ...


class Descendants(Protocol):
    """The signature of `MemRL.descendants`."""

    def __call__(self, state: MemoryState, ancestors: Array) -> Array:
        """[N] bool: the memories that were built on those of `ancestors` [N], directly or through others."""
        ...


class MemRL(NamedTuple):
    """MemRL's memory as pure functions; the state is a `memjax.memory.MemoryState` with values `Entry`."""

    init: Init  # (seed=None) -> empty state
    retrieve: Retrieve  # (state, intents [B, D], *, key=None) -> Found
    credit: Credit  # (state, found, rewards [B], *, mask, without) -> state
    insert: Insert  # (state, intents, payload, *, success, utility, ...) -> state, slots [B]
    learn: Learn  # both in one: (state, found, rewards, intents, payload, *, scored, ...) -> state, slots [B]
    quarantine: Quarantine  # (state, where [N], on=True) -> state
    descendants: Descendants  # (state, ancestors [N]) -> [N]
    memory: Memory  # what all of these are made of
    config: MemRLConfig
    key_dim: int  # D
