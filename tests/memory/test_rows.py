"""Reading rows of tables, in C++ with memjax-native and by XLA without: the same, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.memory import gather_values
from memjax.memory.search import native

TYPES = (bool, jnp.int8, jnp.uint16, jnp.int32, jnp.bfloat16, jnp.float32, jnp.complex64)
N = 7


@pytest.fixture(params=["in C++", "by XLA"])
def by(request, monkeypatch):
    if request.param == "by XLA":
        monkeypatch.setattr(native, "copies", lambda *_: False)
    elif not native.available():
        pytest.skip("memjax-native is not installed (pip install ./native)")


def tables(rng, *lead):
    """One of each type and of several widths; numbers that are not finite among them."""
    shapes = [(), (3,), (2, 2), (), (5,), (1,), (2,)]
    made = [rng.integers(0, 2**31, (*lead, N, *shape)).astype(np.int32) for shape in shapes]
    made = [x.astype(dtype) for x, dtype in zip(made, TYPES, strict=True)]
    made[5][..., 2, 0], made[5][..., 3, 0] = np.nan, -0.0
    return {str(np.dtype(x.dtype)): jax.device_put(x) for x in made}


def expected(table, slots, mask, fill):
    rows = np.asarray(table)[np.clip(slots, 0, N - 1)]
    return np.where(
        mask.reshape(mask.shape + (1,) * (table.ndim - 1)), rows, np.array(fill).astype(rows.dtype)
    )


def assert_bits(found, wanted):
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert np.asarray(found).tobytes() == wanted.tobytes()


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("shape", [(), (0,), (6,), (3, 4)], ids=str)
def test_rows_of_every_type_at_slots_of_any_shape(shape):
    rng = np.random.default_rng(0)
    values, slots = tables(rng), rng.integers(-3, N + 3, shape).astype(np.int32)
    mask = np.asarray(rng.random(shape) < 0.6)
    for name, rows in jax.jit(gather_values)(values, slots, mask).items():
        assert_bits(rows, expected(values[name], slots, mask, 0))


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("fill", [-1, 4])
def test_what_stands_where_there_is_none(fill):
    rng = np.random.default_rng(1)
    values = {name: x for name, x in tables(rng).items() if x.dtype in (jnp.int8, jnp.int32)}
    slots, mask = rng.integers(0, N, 20).astype(np.int32), rng.random(20) < 0.5
    for name, rows in gather_values(values, slots, mask, fill).items():
        assert_bits(rows, expected(values[name], slots, mask, fill))
    assert gather_values((), slots, mask) == ()


@pytest.mark.usefixtures("by")
def test_rows_of_more_bytes_than_one_thread_copies():
    rng = np.random.default_rng(2)
    table = rng.normal(size=(N, 100)).astype(np.float32)
    slots, mask = rng.integers(0, N, 3001).astype(np.int32), rng.random(3001) < 0.9
    assert_bits(gather_values(jnp.asarray(table), slots, mask), expected(table, slots, mask, 0))


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, 0), (None, 0, None), (0, None, None)], ids=str)
def test_mapped_over_tables_slots_and_masks(axes):
    rng = np.random.default_rng(3)
    values, slots, mask = (
        tables(rng, 4),
        rng.integers(-2, N + 2, (4, 5)).astype(np.int32),
        rng.random((4, 5)) < 0.7,
    )
    given = [
        jax.tree.map(lambda x, axis=axis: x if axis == 0 else x[0], each)
        for each, axis in zip((values, slots, mask), axes, strict=True)
    ]
    found = jax.jit(jax.vmap(gather_values, axes))(*given)
    for i in range(4):
        one, some, of = (
            jax.tree.map(lambda x, axis=axis, i=i: x[i] if axis == 0 else x, each)
            for each, axis in zip(given, axes, strict=True)
        )
        for name, rows in found.items():
            assert_bits(rows[i], expected(one[name], some, of, 0))


@pytest.mark.usefixtures("by")
def test_gradients_are_the_counts_of_the_rows_read():
    slots, mask = np.array([[1, 1, 5], [2, 5, 0]], np.int32), np.array([[1, 1, 0], [1, 1, 0]], bool)
    table, numbers = jnp.ones((N, 2)), jnp.arange(N)

    def loss(table):
        rows = gather_values({"a": table, "b": numbers}, slots, mask)
        return jnp.sum(rows["a"] * jnp.array([1.0, 3.0])) + jnp.sum(rows["b"])

    counts = np.zeros((N, 1))
    np.add.at(counts, slots[mask], 1.0)
    np.testing.assert_array_equal(jax.grad(loss)(table), counts * [1.0, 3.0])
    both = jax.vmap(jax.grad(loss))(jnp.stack([table, 2 * table]))
    np.testing.assert_array_equal(both, np.stack([counts * [1.0, 3.0]] * 2))
