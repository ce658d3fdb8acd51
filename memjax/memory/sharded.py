"""A memory whose slots are split over a mesh axis, with the answers of one device.

    mesh = jax.make_mesh((8,), ("slots",))
    memory = make_sharded_memory(mesh, "slots", 1_000_000, 64, value_like, evict="lru", k=8)
    state = memory.init()  # each device allocates its own 125,000 slots

    @partial(jax.jit, donate_argnums=0)
    def train_step(train, batch):
        state, _ = memory.write(train.memory, batch.keys, batch.values, utility=batch.returns)
        found = memory.retrieve(state, batch.queries)  # alike on every device
        return replace(train, memory=state, params=learn(train.params, batch, found))

The state is a `MemoryState` of global arrays: each device holds a contiguous range of slots of every field,
and all of the counters. The functions are `shard_map`s, to be called on global arrays; what is written, asked
or rewarded may be placed anywhere and is gathered to all devices first. Other axes of the mesh hold copies.
No operation moves the table; what each exchanges stands at its function.

A checkpoint restores on any number of devices that divides the capacity, onto what `shardings` gives. Only
the index of "lru" and "lowest_utility" depends on the number of shards: where that has changed, restore into
the shapes of the memory that was saved, and have the index made anew.

    before = make_sharded_memory(jax.sharding.AbstractMesh((8,), ("slots",)), "slots", ...)
    saved = jax.eval_shape(before.init)  # or the init of make_memory
    place = shardings(mesh, "slots", saved)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), saved, place)
    state = memory.rebuild(Checkpoints(directory).restore_latest(like).state)
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from memjax.machine import Device
from memjax.memory import interface
from memjax.memory.bank import make_memory
from memjax.memory.budget import check_slots
from memjax.memory.checks import check_seed, check_size, checked_slots
from memjax.memory.eviction.policies import Candidates, Counters, Eviction, Order, Place, eviction_named
from memjax.memory.exchange import global_slots, local_slots, nearest_sharded, share, take
from memjax.memory.interface import Memory, presented
from memjax.memory.retrieval import Retrieved
from memjax.memory.rows import gather_values
from memjax.memory.state import MemoryState
from memjax.types import Array, ConfigError, Key, PyTree

_Call = Callable[..., Any]  # an operation on one shard
_PER_SLOT = ("shown",)  # keywords whose array has a slot axis


def make_sharded_memory(
    mesh: Mesh | AbstractMesh,
    axis_name: str,
    capacity: int,
    key_dim: int,
    value_like: PyTree,
    *,
    evict: str | Eviction,
    **options: Any,
) -> Memory:
    """The memory of `make_memory(capacity, key_dim, value_like, evict=evict, **options)`, split over an axis.

    Every operation gives exactly what that memory, compiled, gives on one device, ties and draws included;
    but keys nearer to each other in score than float32 rounds may change places at the last neighbour, as
    they may between methods.

    Args:
        mesh: the devices; one of shapes alone (`AbstractMesh`) serves for `jax.eval_shape`.
        axis_name: the axis of the mesh that the slots are split over.
        capacity: N in all, a multiple of the size of that axis.
        key_dim: D.
        value_like: one value without a batch axis.
        evict: as for `make_memory`.
        options: the others of `make_memory`.

    Returns:
        The functions of the memory, to be called on global arrays.

    Raises:
        ConfigError: as `make_memory`, and where the capacity does not divide; `init` raises it where the
            shards do not fit their devices.
    """
    shards = _axis_size(mesh, axis_name, capacity)
    local_of = partial(make_memory, key_dim=key_dim, value_like=value_like, evict=evict, **options)
    local = local_of(capacity // shards)
    policy = _merged(eviction_named(evict), axis_name, capacity)
    state = _specs(axis_name, jax.eval_shape(local.init))
    on = partial(_on_shards, mesh, axis_name)
    init = on(local.init, P(), state)

    def start(seed: Array | int | None = None) -> MemoryState:
        check_seed(0 if seed is None else seed)
        check_slots(lambda slots: local_of(slots).init(), capacity, shards=shards, device=_first_device(mesh))
        return init(None if seed is None else jnp.asarray(seed, jnp.uint32))

    # Why: the index that comes may have been made for another number of shards.
    rebuild = on(local.rebuild, replace(state, index=()), state)
    sampler = cache(lambda n: on(partial(_sample, n, axis_name), None, P()))
    reader = cache(lambda fields: on(partial(_gather, fields, axis_name), None, P()))
    write, retrieve = (
        partial(_write, local.write, policy, axis_name),
        partial(_retrieve, local.retrieve, axis_name),
    )
    return Memory(
        init=presented(interface.Init, start),
        write=presented(interface.Write, on(write, state, (state, P()))),
        retrieve=presented(interface.Retrieve, partial(_retrieve_all, on(retrieve, None, P()))),
        sample=presented(interface.Sample, partial(_sample_all, sampler)),
        gather=presented(interface.Gather, partial(_gather_all, reader)),
        touch=presented(interface.Touch, on(partial(_touch, local.touch, axis_name), state, state)),
        update=presented(interface.Update, on(partial(_update, local.update, axis_name), state, state)),
        remove=presented(interface.Remove, on(local.remove, state, state, rest=P(axis_name))),
        rebuild=presented(interface.Rebuild, lambda state: rebuild(replace(state, index=()))),
        capacity=capacity,
        key_dim=key_dim,
    )


def shardings(mesh: Mesh | AbstractMesh, axis_name: str, state_like: MemoryState) -> Any:
    """A NamedSharding for every leaf of a state, for `jit`, `device_put` and restore.

    Args:
        mesh: the devices.
        axis_name: the axis of `mesh` along which slots are split.
        state_like: arrays or their shapes. Leading axes that `vmap` put before the slots are not split.

    Returns:
        A MemoryState of NamedShardings. An index that does not divide, as that of another number of shards
        may not, is whole on every device.
    """
    size = _axis_size(mesh, axis_name, state_like.capacity)
    specs = _specs(axis_name, state_like)

    def place(x: Array, spec: P) -> NamedSharding:
        split = x.shape[len(spec) - 1] % size == 0 if len(spec) else True
        return NamedSharding(mesh, spec if split else P())

    return jax.tree.map(place, state_like, specs)


def _specs(axis_name: str, state_like: MemoryState) -> Any:
    """Fields with slots are split along them, counters are whole on every shard."""
    lead = state_like.valid.ndim - 1
    split = P(*(None,) * lead, axis_name)
    return jax.tree.map(lambda x: split if x.ndim > lead else P(), state_like)


def _first_device(mesh: Mesh | AbstractMesh) -> Device:
    """One that this process allocates on; None for a mesh of shapes alone."""
    return mesh.local_devices[0] if isinstance(mesh, Mesh) else None


def _axis_size(mesh: Mesh | AbstractMesh, axis_name: str, capacity: int) -> int:
    if axis_name not in mesh.axis_names:
        raise ConfigError("axis_name", f"one of {mesh.axis_names}", axis_name)
    size = mesh.shape[axis_name]
    if capacity % size:
        fits = max(size, (2 * capacity + size) // (2 * size) * size)
        raise ConfigError("capacity", f"a multiple of the {size} shards, such as {fits}", capacity)
    return size


def _on_shards(
    mesh: Mesh | AbstractMesh, axis_name: str, body: _Call, first: Any, out: Any, *, rest: P | None = None
) -> _Call:
    """`body` on every shard: its first argument split by the specs `first`, what it returns by `out`.

    Where `first` is None that argument is a state, which need not be of this memory: one that was made for
    another metric has other norms. All other arguments are whole on every shard (or split by `rest`), but for
    those that have a slot axis.
    """

    def run(state: Any = None, *arguments: Any, **options: Any) -> Any:
        split = {name: P(axis_name) if name in _PER_SLOT else rest or P() for name in options}
        specs = _specs(axis_name, state) if first is None else first, (rest or P(), split)
        # Why: what is gathered and merged is the same on every shard, which the check cannot see.
        mapped = partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
        given = _placed(mesh, specs, (state, (arguments, options)))
        return mapped(lambda state, others: body(state, *others[0], **others[1]))(*given)

    return jax.jit(run)


def _placed(mesh: Mesh | AbstractMesh, specs: Any, arguments: Any) -> Any:
    """Arguments as `shard_map` wants them on a mesh with explicit axes, where nothing moves by itself."""
    if AxisType.Explicit not in mesh.axis_types:
        return arguments
    specs = jax.tree.broadcast(specs, arguments)
    return jax.tree.map(lambda x, spec: jax.reshard(x, NamedSharding(mesh, spec)), arguments, specs)


def _merged(policy: Eviction, axis_name: str, capacity: int) -> Eviction:
    """The policy of the whole memory, as every shard works it out from the candidates of all."""
    order = policy.order and partial(_order, policy.order, axis_name)
    return policy._replace(order=order, place=partial(_place, policy.place, capacity))


def _order(order: Order, axis_name: str, state: MemoryState, m: int) -> Candidates:
    """Every shard's first m, in order: S m of them."""
    columns, slots = order(state, m)
    rows = (*columns, global_slots(slots, state.capacity, axis_name))
    rows = [lax.all_gather(row, axis_name, tiled=True) for row in rows]
    *columns, slots = lax.sort(rows, num_keys=len(rows))
    return Candidates(tuple(columns), slots)


def _place(
    place: Place,
    capacity: int,
    scalars: Counters,
    n: int,
    accept: Array,
    utility: Array,
    candidates: Candidates | None,
) -> tuple[Array, Array]:
    del n
    first = min(capacity, accept.shape[0])
    return place(scalars, capacity, accept, utility, jax.tree.map(lambda x: x[:first], candidates))


def _write(
    write: _Call, policy: Eviction, axis_name: str, state: MemoryState, *items: Any, **fields: Any
) -> Any:
    """Exchanges the candidates alone: 8 ("lru") or 12 ("lowest_utility") bytes for each item and shard."""
    locate = partial(local_slots, n=state.capacity, axis_name=axis_name)
    return write(state, *items, **fields, policy=policy, locate=locate)


def _retrieve_all(
    retriever: _Call, state: MemoryState, queries: Array, *, find: _Call | None = None, **options: Any
) -> Retrieved:
    if find is not None:
        raise ConfigError("find", "none: a memory on several devices searches by itself", "a function")
    return retriever(state, queries, **options)


def _retrieve(
    retrieve: _Call, axis_name: str, state: MemoryState, queries: Array, **options: Any
) -> Retrieved:
    """For each query 8 bytes of each candidate of each shard, then the winners' values, utilities and groups.

    With `rerank`, between the two, 8 bytes of each of the best `recall`: the pool is the same on every shard,
    and so is what phase two does with it.
    """
    find, rows = partial(nearest_sharded, axis_name=axis_name), partial(take, axis_name=axis_name)
    found = retrieve(state, queries, **options, find=find, take=rows)
    capacity = state.capacity * lax.axis_size(axis_name)
    return found._replace(slots=jnp.where(found.mask, found.slots, capacity))


def _sample_all(sampler: _Call, state: MemoryState, key: Key, n: int) -> tuple[PyTree, Array, Array]:
    check_size("n", n, least=0)
    return sampler(n)(state, key)


def _gather_all(
    reader: _Call,
    state: MemoryState,
    slots: Array,
    fields: Callable[[MemoryState], PyTree],
    mask: Array | None = None,
) -> PyTree:
    return reader(fields)(state, checked_slots(slots, mask), mask)


def _gather(
    fields: Callable[[MemoryState], PyTree],
    axis_name: str,
    state: MemoryState,
    slots: Array,
    mask: Array | None,
) -> PyTree:
    """Exchanges the rows."""
    return take(
        fields(state), slots, slots >= 0 if mask is None else mask & (slots >= 0), axis_name=axis_name
    )


def _sample(n: int, axis_name: str, state: MemoryState, key: Key) -> tuple[PyTree, Array, Array]:
    """Exchanges 4 bytes for each shard, then the chosen values and slots."""
    stored = jnp.cumsum(state.valid, dtype=jnp.int32)
    counts = lax.all_gather(stored[-1], axis_name)
    before = jnp.where(jnp.arange(counts.shape[0]) < lax.axis_index(axis_name), counts, 0)
    turn = jax.random.randint(key, (n,), 0, jnp.maximum(jnp.sum(counts), 1)) - jnp.sum(before)
    here = (turn >= 0) & (turn < stored[-1])
    slots = jnp.searchsorted(stored, turn + 1).astype(jnp.int32)
    rows = gather_values(state.values, slots, here), global_slots(slots, state.capacity, axis_name)
    values, slots = share(rows, here, axis_name=axis_name)
    mask = jnp.broadcast_to(jnp.sum(counts) > 0, (n,))
    return values, jnp.where(mask, slots, state.capacity * counts.shape[0]), mask


def _touch(
    touch: _Call, axis_name: str, state: MemoryState, slots: Array, mask: Array | None = None
) -> MemoryState:
    """Exchanges the clock."""
    after = touch(state, local_slots(checked_slots(slots, mask), state.capacity, axis_name), mask)
    return replace(after, clock=lax.pmax(after.clock, axis_name))


def _update(
    update: _Call,
    axis_name: str,
    state: MemoryState,
    slots: Array,
    rewards: Array | float,
    mask: Array | None = None,
    *,
    step_size: Array | float | None = None,
) -> MemoryState:
    """Exchanges how many rewards were refused."""
    slots = local_slots(checked_slots(slots, mask), state.capacity, axis_name)
    after = update(state, slots, rewards, mask, step_size=step_size)
    refused = lax.psum(after.refused - state.refused, axis_name)
    return replace(after, refused=state.refused + refused)
