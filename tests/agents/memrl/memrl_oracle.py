"""MemRL's retrieval and learning in NumPy and Python loops, as the specification reads."""

import numpy as np


def zscore(x):
    std = x.std()
    return np.zeros_like(x) if std <= 1e-9 else (x - x.mean()) / std


def pool_of(config, similarity, bucket, shown):
    """Slots of the pool, nearest first."""
    gate = similarity >= config.threshold if config.inclusive else similarity > config.threshold
    order = [i for i in np.argsort(-similarity, kind="stable") if shown[i] and gate[i]]
    if config.unit == "memories":
        return order[: config.recall]
    buckets = list(dict.fromkeys(bucket[i] for i in order[: config.pool]))[: config.recall]
    return [i for i in order[: config.pool] if bucket[i] in buckets]


def retrieve(config, similarity, utility, bucket, written, shown):
    """Slots and scores injected for one query, best first."""
    pool = pool_of(config, similarity, bucket, shown)
    if not pool:
        return [], []
    near, worth = similarity[pool].astype(np.float64), utility[pool].astype(np.float64)
    if config.floor is not None:
        worth = np.maximum(worth, config.floor)
    scaled = zscore(near) if config.normalize == "pool" else (near - config.mean) / config.std
    q = zscore(worth)
    q = q if config.clip is None else np.clip(q, -config.clip, config.clip)
    score = (1 - config.weight) * scaled + config.weight * q
    kept = [i for i in range(len(pool)) if config.minimum is None or worth[i] >= config.minimum]
    kept.sort(key=lambda i: (-score[i], -written[pool[i]]))
    kept = kept[: config.keep]
    return [pool[i] for i in kept], [score[i] for i in kept]


def place(config, keys, bucket, ids, new):
    """(bucket, key) of new intents with these ids, one by one, beside the `keys` and `bucket` at hand."""
    keys, bucket = [np.array(k) for k in keys], list(bucket)
    placed = []
    for intent, number in zip(new, ids, strict=True):
        best = max(range(len(keys)), key=lambda i: keys[i] @ intent, default=None)
        joins = best is not None and keys[best] @ intent >= config.add_similarity - 1e-6
        bucket.append(bucket[best] if joins else number)
        keys.append(keys[best] if joins and config.unit == "buckets" else np.array(intent))
        placed.append((bucket[-1], keys[-1]))
    return placed
