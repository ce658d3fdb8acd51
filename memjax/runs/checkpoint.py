"""Checkpoints that are whole or are not used: Orbax on disk, a sha256 of every leaf beside it.

One checkpoint is `checkpoints/STEP/` with two items: `state`, the arrays, and `meta`, one JSON object with
the schema version, the step, host-side counters and the digest of each leaf. Orbax makes a checkpoint
appear at once, by a rename; the digests make any later change of a bit visible at restore, and then the
checkpoint before it is used.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from memjax import __version__
from memjax.runs.digest import (
    Leaf,
    as_array,
    digest_of,
    flatten,
    is_key,
    is_scalar,
    kind_of,
    leaves_of,
    sha256_json,
    sha256_of,
)
from memjax.types import ConfigError, PyTree, RunEnded

SCHEMA_VERSION = 2  # of a checkpoint; raised whenever an older one can no longer be read


class CheckpointError(RunEnded):
    """A checkpoint could not be written: a full disk, a directory that went away."""


class Damaged(Exception):
    """A checkpoint does not hold what was saved; the message says what is wrong with it."""


class Restored(NamedTuple):
    """A checkpoint, read and verified."""

    step: int
    state: PyTree
    counters: dict[str, Any]  # the host-side ones given to `save`


class Checkpoints:
    """The checkpoints of one run. `save` returns before the bytes are on disk; `close` waits for them."""

    def __init__(self, directory: Path, keep: int = 1):
        self.directory = Path(directory).resolve()
        self.keep = keep  # how many of the newest stay
        self._manager: ocp.CheckpointManager | None = None
        self._damaged: list[int] = []  # newer than the one restored; moved aside before the next save

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def save(self, step: int, state: PyTree, counters: Mapping[str, Any] | None = None) -> None:
        """Starts to save `state` as checkpoint `step`; `state` may be donated as soon as this returns.

        Raises CheckpointError if this save, or an earlier one in the background, failed.
        """
        leaves = dict(enumerate(leaf for _, leaf in flatten(state)))
        arrays = {_name(i): _frozen(as_array(leaf)) for i, leaf in leaves.items() if _is_stored(leaf)}
        table = leaves_of(state)
        record = {
            "schema": SCHEMA_VERSION,
            "memjax": __version__,
            "step": step,
            "counters": dict(counters or {}),
            "scalars": {_name(i): leaf for i, leaf in leaves.items() if is_scalar(leaf)},
            "leaves": [list(leaf) for leaf in table],
            "digest": digest_of(table),
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays or _NO_ARRAYS),
            meta=ocp.args.JsonSave({"sha256": sha256_json(record), "record": record}),
        )
        self._guarded(lambda: self._open().save(step, args=items, force=True))

    @property
    def busy(self) -> bool:
        """Whether a save is still being written, so that another one would wait for it."""
        return self._manager is not None and self._manager.is_saving_in_progress()

    def wait(self) -> None:
        """Blocks until every save is on disk. Raises CheckpointError if one failed."""
        if self._manager is not None:
            self._guarded(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits, then releases the threads. Raises CheckpointError if a save failed."""
        manager, self._manager = self._manager, None
        if manager is not None:
            self._guarded(manager.close)

    def restore_latest(self, abstract_state: PyTree, *, required: bool = True) -> Restored | None:
        """The newest intact checkpoint, typed and sharded as `abstract_state` is; None if there is none.

        A damaged one is said on one line, and moved aside to `damaged-STEP` by the next `save`; reading alone
        changes nothing. Raises ConfigError where an intact one belongs to another program (other leaves, or
        another schema version), and where all are damaged; with `required` False that is None too, for a
        caller that can make the state anew.
        """
        damaged: list[int] = []
        for step in reversed(steps_in(self.directory)):
            try:
                restored = restore(self.directory, step, abstract_state)
            except Damaged as error:
                print(f"memjax: checkpoint {step} is damaged ({error}); trying the one before it", flush=True)
                damaged.append(step)
                continue
            self._damaged = damaged
            return restored
        if damaged and required:
            got = f"{len(damaged)} damaged and none intact in {self.directory}"
            raise ConfigError("workdir", "an intact checkpoint (or start anew in another --workdir)", got)
        self._damaged = damaged
        return None

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            while self._damaged:
                _move_aside(self.directory / str(self._damaged.pop()))
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self.keep,
                cleanup_tmp_directories=True,
                # Why: made in the background, one that cannot be made ends in a time-out of minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        return self._manager

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except (OSError, ValueError, RuntimeError) as error:
            what = str(error).splitlines()[0].split(" [")[0]  # TensorStore adds where in its source it was
            what = what if len(what) < 200 else f"... {what[-200:]}"  # the cause stands last
            raise CheckpointError(f"cannot write a checkpoint to {self.directory}: {what}") from error


def steps_in(directory: Path) -> list[int]:
    """Steps of the checkpoints in `directory`, oldest first, intact or not."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if re.fullmatch(r"\d+", path.name))


def restore(directory: Path, step: int, abstract_state: PyTree) -> Restored:
    """Checkpoint `step`, verified. Raises Damaged, or ConfigError if it belongs to another program."""
    record = read_record(directory, step)
    wanted = flatten(abstract_state)
    _check_same_leaves(record["leaves"], [(path, *kind_of(leaf)) for path, leaf in wanted])
    targets = {_name(i): _target(leaf) for i, (_, leaf) in enumerate(wanted) if _is_stored(leaf)}
    arrays = _read_arrays(directory, step, targets)
    leaves = [_rebuild(_name(i), leaf, arrays, record["scalars"]) for i, (_, leaf) in enumerate(wanted)]
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
    for (path, *_, saved), found in zip(record["leaves"], leaves_of(state), strict=True):
        if saved != found.sha256:
            raise Damaged(f"{path} is not what was saved")
    return Restored(step, state, record["counters"])


def restore_leaves(directory: Path, step: int) -> dict[str, Any]:
    """Every leaf of checkpoint `step` by its path, verified, on the host, without a program to restore into.

    PRNG keys come as their data. Raises Damaged, or ConfigError on another schema version.
    """
    record = read_record(directory, step)
    table = {_name(i): Leaf(*leaf) for i, leaf in enumerate(record["leaves"])}
    stored = [name for name, leaf in table.items() if leaf.dtype != "python" and 0 not in leaf.shape]
    arrays = _read_arrays(directory, step, dict.fromkeys(stored, np.zeros(1)), on_host=True)
    leaves: dict[str, Any] = {}
    for name, leaf in table.items():
        if leaf.dtype == "python":
            leaves[leaf.path] = record["scalars"][name]
        else:
            leaves[leaf.path] = arrays[name] if name in arrays else np.zeros(leaf.shape)
        if sha256_of(leaves[leaf.path]) != leaf.sha256:
            raise Damaged(f"{leaf.path} is not what was saved")
    return leaves


def read_record(directory: Path, step: int) -> dict[str, Any]:
    """The verified record of checkpoint `step`. Raises Damaged, or ConfigError on another schema version."""
    try:
        meta = json.loads((directory / str(step) / "meta" / "metadata").read_bytes())
        record = meta["record"]
        intact = sha256_json(record) == meta["sha256"] and record["step"] == step
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"its record cannot be read: {type(error).__name__}") from error
    if not intact:
        raise Damaged("its record is not what was saved")
    if record["schema"] != SCHEMA_VERSION:
        ours = f"schema {SCHEMA_VERSION} (this is memjax {__version__})"
        raise ConfigError(
            "checkpoint", ours, f"schema {record['schema']} (written by memjax {record['memjax']})"
        )
    return record


_NO_ARRAYS = {"empty": np.zeros(1, np.uint8)}  # Orbax refuses an item without arrays


def _read_arrays(
    directory: Path, step: int, targets: Mapping[str, Any], on_host: bool = False
) -> dict[str, Any]:
    """What Orbax finds. Any failure is damage: that the leaves fit the program was seen from the record."""
    if not targets:
        return {}
    folder = (directory / str(step) / "state").resolve()  # Orbax takes absolute paths alone
    try:
        if on_host:
            how = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in targets}
            with ocp.PyTreeCheckpointer() as reader:
                return reader.restore(folder, ocp.args.PyTreeRestore(item=dict(targets), restore_args=how))
        with ocp.StandardCheckpointer() as reader:
            return reader.restore(folder, dict(targets))
    except Exception as error:  # tensorstore, zarr, JSON: no narrower type covers what a damaged file raises
        what = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise Damaged(f"its arrays cannot be read: {what}") from error


def _check_same_leaves(
    saved: Sequence[Sequence[Any]], wanted: Sequence[tuple[str, str, tuple[int, ...]]]
) -> None:
    """Raises ConfigError at the first leaf in which checkpoint and program differ."""
    have = {path: f"{dtype}{list(shape)}" for path, dtype, shape, _ in saved}
    want = {path: f"{dtype}{list(shape)}" for path, dtype, shape in wanted}
    for path in [*want, *have]:
        if have.get(path) != want.get(path):
            expected = f"{want.get(path, 'no such leaf')} as in this program"
            raise ConfigError(f"checkpoint{path}", expected, have.get(path, "no such leaf"))


def _move_aside(path: Path) -> None:
    if jax.process_index() != 0:
        return
    target, copies = path.with_name(f"damaged-{path.name}"), 0
    while target.exists():
        copies += 1
        target = path.with_name(f"damaged-{path.name}-{copies}")
    path.rename(target)


def _name(index: int) -> str:
    return f"{index:06d}"


def _is_stored(leaf: Any) -> bool:
    """Orbax keeps it: an array that is not empty (those it refuses, and their shape says everything)."""
    return not is_scalar(leaf) and 0 not in leaf.shape


def _frozen(array: Any) -> Any:
    """Orbax copies JAX arrays before `save` returns; those of NumPy could change under it."""
    return array if isinstance(array, jax.Array) else array.copy()


def _target(leaf: Any) -> Any:
    """What Orbax is to restore into."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return np.zeros(leaf.shape, leaf.dtype)
    shape, dtype = leaf.shape, leaf.dtype
    if is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
        shape, dtype = data.shape, data.dtype
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _rebuild(name: str, leaf: Any, arrays: Mapping[str, Any], scalars: Mapping[str, Any]) -> Any:
    """One leaf of the restored state, of the kind of the abstract one."""
    if is_scalar(leaf):
        return scalars[name]
    value = arrays[name] if name in arrays else _empty(leaf)
    if is_key(leaf):
        return jax.random.wrap_key_data(value, impl=leaf.dtype._impl.name)
    return value[()] if isinstance(leaf, np.generic) else value


def _empty(leaf: Any) -> Any:
    """An array without elements, which no checkpoint stores."""
    target = _target(leaf)
    empty = np.zeros(target.shape, target.dtype)
    return empty if isinstance(leaf, np.ndarray) else jax.device_put(empty, target.sharding)
