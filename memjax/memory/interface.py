"""What a memory is to those who use it: nine functions with typed signatures, and two sizes.

Each signature is a Protocol, so an editor completes the keywords and a type checker finds a misspelt one. The
same text serves `help(memory.write)`: `presented` puts it on the function that a factory has bound.
Axis letters: B items written, Q queries, k neighbours, n samples, N slots, D width of a key.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import jax

from memjax.memory.retrieval import Find, Retrieved
from memjax.memory.state import MemoryState
from memjax.types import Array, Key, PyTree

F = TypeVar("F", bound=Callable[..., Any])


class Init(Protocol):
    """The signature of `Memory.init`."""

    def __call__(self, seed: Array | int | None = None) -> MemoryState:
        """An empty memory.

        Args:
            seed: [] whole number from 0 to 2^32 - 1, by default the `seed` of the factory. Only "reservoir"
                draws from it; give each of several memories its own.

        Returns:
            A state with N empty slots.

        Raises:
            ConfigError: the device has no room for the state (not checked inside `jit`), or the seed is no
                such number.
        """
        ...


class Write(Protocol):
    """The signature of `Memory.write`."""

    def __call__(
        self,
        state: MemoryState,
        keys: Array,
        values: PyTree,
        *,
        utility: Array | float | None = None,
        group: Array | None = None,
        mask: Array | None = None,
    ) -> tuple[MemoryState, Array]:
        """Writes B items as if one by one, in batch order; B may exceed the capacity.

        Args:
            state: the memory; donate it to `jit` and it is updated in place.
            keys: [B, D] of a floating type. An item whose key is not finite is refused and counted in
                `refused`.
            values: the tree of `value_like` with an axis B in front of every leaf; types that convert without
                loss are accepted.
            utility: [B] or [] the worth of the items, by default `initial_utility`. An item whose utility is
                not finite is refused and counted as well.
            group: [B] whole numbers, a trajectory or a task; -1 (the default) for none.
            mask: [B] bool, which items to write (default: all). A masked item leaves no trace.

        Returns:
            The state after, and slots [B] i32: where each item lies now, N where it does not (masked out,
            refused, not kept by the eviction policy, or overwritten by a later item of this batch).

        Raises:
            ConfigError: a shape or type does not fit; for values it names the leaf.
        """
        ...


class Retrieve(Protocol):
    """The signature of `Memory.retrieve`."""

    def __call__(
        self,
        state: MemoryState,
        queries: Array,
        *,
        shown: Array | None = None,
        exclude_group: Array | None = None,
        key: Key | None = None,
        find: Find | None = None,
    ) -> Retrieved:
        """Reads the k best entries for each of Q queries; the state is not changed (see `touch`).

        Args:
            state: the memory.
            queries: [Q, D] of a floating type.
            shown: [N] bool, the slots that may be found (default: all that hold something).
            exclude_group: [Q] whole numbers, the group that each query must not find; negative for none.
            key: a random key, needed where `rerank` explores (`epsilon` above 0).
            find: how to search, in place of `memjax.memory.nearest`; only in a memory on one device.

        Returns:
            `Retrieved`, each field [Q, k], best first. Where fewer than k entries are found, the rest has
            `mask` False and zero values.

        Raises:
            ConfigError: a shape or type does not fit, or `key` is missing.
        """
        ...


class Sample(Protocol):
    """The signature of `Memory.sample`."""

    def __call__(self, state: MemoryState, key: Key, n: int) -> tuple[PyTree, Array, Array]:
        """Draws n entries, uniformly over what is stored, with replacement. O(N).

        Args:
            state: the memory.
            key: a random key.
            n: how many, from 0; static under `jit`.

        Returns:
            values (each leaf [n, ...]), slots [n] i32 and mask [n] bool. From an empty memory: zeros,
            slots N, mask False.
        """
        ...


class Gather(Protocol):
    """The signature of `Memory.gather`."""

    def __call__(
        self,
        state: MemoryState,
        slots: Array,
        fields: Callable[[MemoryState], PyTree],
        mask: Array | None = None,
    ) -> PyTree:
        """Rows of the state at some slots.

        Args:
            state: the memory.
            slots: whole numbers of any shape; those outside 0 .. N-1 have no row.
            fields: (state) -> a tree of arrays [N, ...], such as `lambda state: state.utility`. Pass the same
                function every time: under `jit` a new one is compiled anew.
            mask: bool of the shape of `slots`, which to read (default: all).

        Returns:
            The tree of `fields`, each leaf [*slots.shape, ...]; zero where there is no row or `mask` is
            False.

        Raises:
            ConfigError: a shape or type does not fit.
        """
        ...


class Touch(Protocol):
    """The signature of `Memory.touch`."""

    def __call__(self, state: MemoryState, slots: Array, mask: Array | None = None) -> MemoryState:
        """Stamps these slots as read now; "lru" spares what was read lately.

        Args:
            state: the memory.
            slots: whole numbers of any shape. Empty slots and those outside 0 .. N-1 are passed over.
            mask: bool of the shape of `slots`, which of them count (default: all).

        Returns:
            The state with a new `read` of these slots; the clock has advanced by 1 if there was any.

        Raises:
            ConfigError: a shape or type does not fit.
        """
        ...


class Update(Protocol):
    """The signature of `Memory.update`."""

    def __call__(
        self,
        state: MemoryState,
        slots: Array,
        rewards: Array | float,
        mask: Array | None = None,
        *,
        step_size: Array | float | None = None,
    ) -> MemoryState:
        """Q <- Q + step_size (r - Q) for these slots, one by one in order; `visits` counts these updates.

        Args:
            state: the memory.
            slots: whole numbers of any shape, repeated ones included. Empty slots and those outside
                0 .. N-1 are passed over.
            rewards: one real number, or as many axes of them as `slots` has, each of its size or 1: [Q, 1]
                for one a query. One that is not finite is refused and counted in `refused`.
            mask: bool of the shape of `slots`, which rewards count (default: all).
            step_size: as `rewards`, by default the `step_size` of the factory.

        Returns:
            The state with new `utility` and `visits` of these slots.

        Raises:
            ConfigError: a shape or type does not fit.
        """
        ...


class Remove(Protocol):
    """The signature of `Memory.remove`."""

    def __call__(self, state: MemoryState, mask: Array) -> MemoryState:
        """Frees slots. O(N). `memjax.memory.eviction.policies` says what fills the holes.

        Args:
            state: the memory.
            mask: [N] bool, the slots to free.

        Returns:
            The state in which these slots hold nothing.

        Raises:
            ConfigError: the mask has another shape or type.
        """
        ...


class Rebuild(Protocol):
    """The signature of `Memory.rebuild`."""

    def __call__(self, state: MemoryState) -> MemoryState:
        """Makes what follows from the fields anew; call it after fields were replaced by hand.

        That is the eviction policy's index and, for "cosine" and "l2", the norms of the keys: a read by norms
        of other keys misses neighbours.

        Args:
            state: the memory, whatever its index and norms.

        Returns:
            The state with an index and norms that fit its fields.
        """
        ...


class Memory(NamedTuple):
    """A memory as pure functions, all usable under `jit`, `vmap`, `scan` and `grad`; see their `help`."""

    init: Init  # (seed=None) -> empty state
    write: Write  # (state, keys [B, D], values, *, utility, group, mask) -> state, slots [B]
    retrieve: Retrieve  # (state, queries [Q, D], *, shown, exclude_group, key) -> Retrieved
    sample: Sample  # (state, key, n) -> values [n, ...], slots [n], mask [n]
    gather: Gather  # (state, slots, fields, mask=None) -> rows of the fields
    touch: Touch  # (state, slots, mask=None) -> state; these were read
    update: Update  # (state, slots, rewards, mask=None, *, step_size) -> state; utility and visits
    remove: Remove  # (state, mask [N]) -> state; frees these slots
    rebuild: Rebuild  # (state) -> state; after fields were replaced by hand
    capacity: int  # N
    key_dim: int  # D


def presented(signature: type[F], function: F) -> F:
    """`function` with the name, arguments and text of a Protocol, for `help` and for editors at run time.

    Why: a function that a factory binds with `functools.partial` has no name and no text of its own, and
    `help` would list the arguments that are bound already.

    Args:
        signature: a Protocol whose `__call__` has the arguments and the text.
        function: what is called; the type checker compares it with the Protocol.
    """
    described, scope = signature.__call__, f"memory.{signature.__name__.lower()}"

    def call(*arguments: Any, **options: Any) -> Any:
        with jax.named_scope(scope):  # by which a profile tells a memory's operations from others
            return function(*arguments, **options)

    functools.update_wrapper(call, described, assigned=("__doc__", "__annotations__"), updated=())
    shown = cast(Any, call)  # a function of any kind has the attributes that are set here
    del shown.__wrapped__  # Why: `self` would come back with it.
    first, *others = inspect.signature(described).parameters.values()
    assert first.name == "self"
    shown.__signature__ = inspect.signature(described).replace(parameters=others)
    shown.__name__ = shown.__qualname__ = signature.__name__.lower()
    shown.__module__ = signature.__module__
    return shown
