"""The memory written out in Python: one item at a time, one rule a line. What the tests compare with."""

import heapq

import jax
import numpy as np

NOTHING = None


@jax.jit
def _drawn(seed, count):
    return jax.random.randint(jax.random.fold_in(jax.random.key(seed), count), (), 0, count + 1)


class BankOracle:
    """Slots as a list of dicts; `None` where a slot is empty."""

    def __init__(self, capacity, evict, seed=0, step_size=0.5):
        self.n, self.evict, self.seed, self.step_size = capacity, evict, seed, step_size
        self.slots = [NOTHING] * capacity
        self.clock = self.count = self.cursor = self.refused = self.items = 0

    def write(self, keys, utility, group, mask):
        first = self.items
        for key, worth, trajectory, keep in zip(keys, utility, group, mask, strict=True):
            self.items += 1
            if not keep:
                continue
            if not (np.isfinite(key).all() and np.isfinite(worth)):
                self.refused += 1
                continue
            self._write_one(key, worth, trajectory, self.items - 1)
        where = {slot["item"]: i for i, slot in enumerate(self.slots) if slot is not NOTHING}
        return [where.get(item, self.n) for item in range(first, self.items)]

    def _write_one(self, key, worth, trajectory, item):
        self.clock += 1
        place = getattr(self, "_" + self.evict)()
        self.count += 1
        if place is not NOTHING:
            self.slots[place] = dict(
                key=key, item=item, utility=worth, group=trajectory, visits=0, written=self.clock, read=0
            )

    def _hole(self):
        return self.slots.index(NOTHING) if NOTHING in self.slots else NOTHING

    def _fifo(self):
        place, self.cursor = self.cursor, (self.cursor + 1) % self.n
        return place

    def _lru(self):
        def used(i):
            return max(self.slots[i]["written"], self.slots[i]["read"])

        return self._hole() if NOTHING in self.slots else min(range(self.n), key=lambda i: (used(i), i))

    def _lowest_utility(self):
        def turn(i):
            return self.slots[i]["utility"], self.slots[i]["written"], i

        return self._hole() if NOTHING in self.slots else min(range(self.n), key=turn)

    def _reservoir(self):
        if self.count < self.n:
            return self.count
        place = int(_drawn(self.seed, self.count))
        return place if place < self.n else NOTHING

    def touch(self, slots):
        present = [s for s in slots if 0 <= s < self.n and self.slots[s] is not NOTHING]
        self.clock += bool(present)
        for s in present:
            self.slots[s]["read"] = self.clock

    def update(self, slots, rewards):
        for s, reward in zip(slots, rewards, strict=True):
            if 0 <= s < self.n and self.slots[s] is not NOTHING:
                old = self.slots[s]["utility"]
                self.slots[s]["utility"] = old + self.step_size * (reward - old)
                self.slots[s]["visits"] += 1

    def remove(self, mask):
        self.slots = [NOTHING if gone else slot for slot, gone in zip(self.slots, mask, strict=True)]


def columns(evict, state):
    """What the order of the slots depends on, [N] each, the first first; holes come before all."""
    valid, utility, written, read = (
        np.asarray(getattr(state, field)) for field in ("valid", "utility", "written", "read")
    )
    if evict == "lru":
        return (np.where(valid, np.maximum(written, read), 0),)
    return np.where(valid, utility, -np.inf), np.where(valid, written, 0)


def turn(rows, m):
    """The m slots that go first, by a full sort."""
    return np.lexsort((np.arange(len(rows[0])), *reversed(rows)))[:m]


def destinations(evict, state, accept, utility):
    """Slots [B] of a batch under "lru" or "lowest_utility": a heap of all slots, one item after the other."""
    rows, n, clock = columns(evict, state), state.capacity, int(state.clock)
    heap = list(zip(*(row.tolist() for row in rows), range(n), strict=True))
    heapq.heapify(heap)
    slots = [n] * len(accept)
    holder = {}
    for item in np.flatnonzero(accept):
        clock += 1
        *_, slot = heapq.heappop(heap)
        heapq.heappush(heap, (clock, slot) if evict == "lru" else (float(utility[item]), clock, slot))
        slots[holder.get(slot, item)] = n
        slots[item], holder[slot] = slot, item
    return slots


def assert_norms(state):
    """What a memory knows of the length of each key it holds is so, in double precision."""
    valid, scale = (
        np.asarray(state.valid),
        1.0 if state.scale is None else np.asarray(state.scale, np.float64),
    )
    rows = np.asarray(state.keys, np.float64) * np.expand_dims(scale, -1)
    squares = np.sum(rows * rows, axis=-1)
    exact = {
        "cosine": np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1)), 0),
        "l2": squares,
    }
    for metric, norms in state.norms.items():
        np.testing.assert_allclose(np.asarray(norms)[valid], exact[metric][valid], rtol=1e-6)


def similarity(queries, keys, metric):
    """[Q, N] in double precision."""
    q, k = np.asarray(queries, np.float64), np.asarray(keys, np.float64)
    if metric == "l2":
        return -np.sum((q[:, None] - k[None]) ** 2, axis=-1)
    if metric == "cosine":
        norms = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(k, axis=1)[None]
        return np.where(norms > 0, q @ k.T / np.where(norms > 0, norms, 1), 0.0)
    return q @ k.T


def allowed(queries, keys, valid, group, exclude_group):
    """[Q, N] which keys each query may find."""
    finite = np.isfinite(queries).all(1)[:, None] & np.isfinite(keys).all(1)[None]
    apart = (group[None] != exclude_group[:, None]) | (exclude_group[:, None] < 0)
    return finite & valid[None] & apart


def nearest(queries, keys, k, valid, group, exclude_group, metric):
    """Slots and scores [Q, k] by a stable full sort."""
    n = keys.shape[0]
    with np.errstate(invalid="ignore", over="ignore"):
        scores = similarity(queries, keys, metric)
    scores = np.where(allowed(queries, keys, valid, group, exclude_group), scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    pad = ((0, 0), (0, k - order.shape[1]))
    best = np.pad(best, pad, constant_values=-np.inf)
    return np.where(best > -np.inf, np.pad(order, pad, constant_values=n), n), best


def rerank(similarity, utility, mask, k, *, weight, normalize, clip, minimum, floor, epsilon, order):
    """One pool, in double precision, as a list of positions."""
    assert epsilon == 0.0
    utility = (
        np.asarray(utility, np.float64) if floor is None else np.maximum(utility, floor).astype(np.float64)
    )
    pool = np.flatnonzero(mask)

    def z(x):
        spread = x.std()
        return (x - x.mean()) / (spread if spread > 1e-9 else 1.0)

    if not pool.size:
        return [], []
    near = np.asarray(similarity, np.float64)[pool]
    near = z(near) if normalize == "pool" else (near - normalize[0]) / normalize[1]
    worth = z(utility[pool])
    worth = worth if clip is None else np.clip(worth, -clip, clip)
    score = (1 - weight) * near + weight * worth
    kept = [i for i in range(pool.size) if minimum is None or utility[pool[i]] >= minimum]
    kept = sorted(kept, key=lambda i: (-np.round(score[i] * 2**20), -order[pool[i]], pool[i]))[:k]
    return [int(pool[i]) for i in kept], [score[i] for i in kept]
