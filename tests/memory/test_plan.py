"""What a memory takes is known before it exists, to the byte; one that does not fit is refused."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax import machine
from memjax.machine import device_bytes, readable
from memjax.memory import POLICIES, budget, check_fits, make_memory, make_sharded_memory, plan_bytes
from memjax.memory.budget import MAX_SLOTS, most_slots
from memjax.types import ConfigError

VALUES = {
    "scalar": jnp.zeros(()),
    "tree": {"image": jax.ShapeDtypeStruct((3, 2), jnp.uint8), "pair": (jnp.zeros(5), jnp.zeros((), bool))},
}
SPEC = dict(key_dim=16, value_like=VALUES["tree"], evict="lru")


def device(free=10_000, platform="gpu", stats=True):
    """An accelerator with some bytes left."""
    known = {"bytes_limit": free + 2_000, "bytes_in_use": 2_000} if stats else None
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: known)


def largest_capacity(free, *, shards=1, **options):
    """The most slots over `shards` devices that take at most `free` bytes on each."""

    def build(capacity):
        return make_memory(capacity, **options).init()

    return min(MAX_SLOTS, shards * most_slots(build, free))


def types_of_keys():
    """Every type of key that a memory can store, whatever is beside it per slot."""
    return [dtype for dtype in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.int8) if _stores(dtype)]


def _stores(dtype):
    try:
        return bool(make_memory(1, 1, jnp.zeros(()), evict="fifo", key_dtype=dtype))
    except ConfigError:
        return False


@pytest.mark.parametrize("dtype", types_of_keys())
@pytest.mark.parametrize("evict", POLICIES)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("capacity", [1, 1000])
def test_the_plan_is_what_the_arrays_take(capacity, value, evict, dtype):
    options = dict(evict=evict, key_dtype=dtype)
    planned = plan_bytes(capacity, 7, VALUES[value], **options)
    state = make_memory(capacity, 7, VALUES[value], **options).init()
    assert planned == sum(x.nbytes for x in jax.tree.leaves(state))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_norms_of_keys_are_in_the_plan(metric):
    options = dict(evict="fifo", metric=metric)
    state = make_memory(1000, 7, VALUES["scalar"], **options).init()
    planned = plan_bytes(1000, 7, VALUES["scalar"], **options)
    assert planned == sum(x.nbytes for x in jax.tree.leaves(state))
    assert planned == plan_bytes(1000, 7, VALUES["scalar"], evict="fifo") + 4000


def test_what_a_process_holds_after_init_is_within_a_tenth_of_the_plan():
    before = {id(x) for x in jax.live_arrays()}
    state = make_memory(20_000, **SPEC).init()
    live = sum(x.nbytes for x in jax.live_arrays() if id(x) not in before)
    assert live == pytest.approx(plan_bytes(20_000, **SPEC), rel=0.1)
    del state


@given(capacity=st.integers(1, 10**12), shards=st.integers(1, 5000), evict=st.sampled_from(sorted(POLICIES)))
def test_a_shard_takes_what_a_memory_of_its_slots_takes(capacity, shards, evict):
    slots = -(-capacity // shards)
    options = dict(key_dim=3, value_like=VALUES["tree"], evict=evict)
    if slots <= MAX_SLOTS:
        assert plan_bytes(capacity, **options, shards=shards) == plan_bytes(slots, **options)


@settings(max_examples=30)
@given(free=st.integers(0, 10**12), shards=st.integers(1, 300), evict=st.sampled_from(sorted(POLICIES)))
def test_the_largest_capacity_fits_and_one_slot_a_shard_more_does_not(free, shards, evict):
    options = dict(key_dim=5, value_like=VALUES["scalar"], evict=evict, key_dtype=jnp.bfloat16, shards=shards)
    most = largest_capacity(free, **options)
    assert most == MAX_SLOTS or most % shards == 0
    assert most == 0 or plan_bytes(most, **options) <= free
    assert most == MAX_SLOTS or plan_bytes(most + shards, **options) > free


def test_the_largest_number_of_slots_where_an_index_grows_in_steps():
    def build(n):
        return jnp.zeros(2 ** (n - 1).bit_length(), jnp.int32)

    assert [most_slots(build, size) for size in (0, 3, 4, 8, 15, 16, 31, 32, 63)] == [
        0,
        0,
        1,
        2,
        2,
        4,
        4,
        8,
        8,
    ]


def test_planning_allocates_nothing():
    before = len(jax.live_arrays())
    assert plan_bytes(10**10, **SPEC, shards=256) > 2**30
    assert len(jax.live_arrays()) == before


def test_a_plan_that_does_not_fit_says_what_would():
    most = largest_capacity(10_000, **SPEC)
    check_fits(most, **SPEC, device=device())
    with pytest.raises(ConfigError) as error:
        check_fits(most + 1, **SPEC, device=device())
    taken, needed = (readable(plan_bytes(n, **SPEC)) for n in (most, most + 1))
    assert error.value.field == "capacity"
    assert error.value.expected.startswith(f"at most {most} slots ({taken} of 9.77 KiB free on namespace(")
    assert error.value.got == f"{most + 1} slots = {needed}"


def test_shards_share_the_slots():
    most = largest_capacity(10_000, **SPEC, shards=8)
    assert most == 8 * largest_capacity(10_000, **SPEC)
    check_fits(most, **SPEC, shards=8, device=device())
    with pytest.raises(ConfigError, match=rf"at most {most:,} slots \(.* free on .*, each of 8 shards\)"):
        check_fits(most + 1, **SPEC, shards=8, device=device())


def test_slots_beyond_32_bits_are_refused_whatever_fits():
    for left in (device(10**18), device(stats=False)):
        check_fits(MAX_SLOTS, **SPEC, shards=1000, device=left)
        with pytest.raises(
            ConfigError, match=r"at most 2,146,435,072 slots \(slots are numbered in 32 bits\), got"
        ):
            check_fits(MAX_SLOTS + 1, **SPEC, shards=1000, device=left)


def test_a_device_that_tells_nothing_refuses_nothing():
    assert device_bytes(device(stats=False)) is None
    check_fits(10**9, **SPEC, device=device(stats=False))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(capacity=0), "capacity: expected a whole number of at least 1, got 0"),
        (dict(shards=0), "shards: expected a whole number of at least 1, got 0"),
        (dict(evict="random"), "evict: expected one of"),
        (dict(key_dim=0), "key_dim: expected"),
    ],
)
@pytest.mark.parametrize("function", [plan_bytes, check_fits])
def test_a_mistake_names_its_field(function, change, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        function(**(dict(capacity=4) | SPEC | change))


def test_the_memory_of_this_machine():
    """Something sensible: more than this process's arrays, less than a thousand TiB."""
    assert 2**20 < device_bytes() < 2**60


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "5000", "memory.current": "3000", "memory.stat": "anon 1\ninactive_file 500"}, 2500),
        ({"memory.max": "5000", "memory.current": "6000", "memory.stat": "inactive_file 0"}, 0),
        ({"memory.max": "max", "memory.current": "3000", "memory.stat": "inactive_file 500"}, 10**6 * 1024),
        ({}, 10**6 * 1024),
    ],
)
def test_a_container_may_have_less_than_its_machine(tmp_path, monkeypatch, files, expected):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal: 9000000 kB\nMemFree: 10 kB\nMemAvailable:   1000000 kB\nHugePages_Total: 0\n"
    )
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_MEMINFO", meminfo)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert device_bytes() == expected


def test_without_proc_all_of_the_memory_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sysconf", {"SC_PHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert device_bytes() == 3 * 4096
    monkeypatch.delattr(machine.os, "sysconf")
    assert device_bytes() is None


def test_init_asks_before_it_allocates(monkeypatch):
    memory = make_memory(1000, **SPEC)
    monkeypatch.setattr(budget, "device_bytes", lambda device: 50_000)
    with pytest.raises(ConfigError, match=r"^capacity: expected at most \d+ slots .*48.83 KiB free on cpu:0"):
        memory.init()
    jax.eval_shape(memory.init)
    jax.jit(memory.init).lower()
    monkeypatch.setattr(budget, "device_bytes", lambda device: plan_bytes(1000, **SPEC))
    memory.init()


def test_a_sharded_memory_asks_for_each_of_its_devices(monkeypatch):
    mesh = jax.make_mesh((1,), ("slots",))
    memory = make_sharded_memory(mesh, "slots", 1000, **SPEC, k=3)
    monkeypatch.setattr(budget, "device_bytes", lambda device: plan_bytes(1000, **SPEC) - 1)
    with pytest.raises(
        ConfigError, match=r"^capacity: expected at most 999 slots .* free on cpu:0\), got 1,000 slots"
    ):
        memory.init()
    jax.eval_shape(memory.init)
    over_shapes = jax.sharding.AbstractMesh((8,), ("slots",))
    jax.eval_shape(make_sharded_memory(over_shapes, "slots", 10**9, **SPEC).init)


def test_devices_that_a_machine_simulates_share_its_memory(monkeypatch):
    monkeypatch.setattr(budget.jax, "local_device_count", lambda: 4)
    monkeypatch.setattr(budget, "device_bytes", lambda device: 4 * plan_bytes(100, **SPEC))
    check_fits(400, **SPEC, shards=4)
    with pytest.raises(ConfigError, match=r"at most 400 slots .*, each of 4 shards"):
        check_fits(404, **SPEC, shards=4)


def test_init_of_several_by_vmap():
    states = jax.vmap(make_memory(6, **SPEC).init)(jnp.arange(3))
    np.testing.assert_array_equal(states.seed, [0, 1, 2])


def test_readable():
    sizes = {
        0: "0 bytes",
        1023: "1023 bytes",
        1536: "1.50 KiB",
        3 * 2**30: "3.00 GiB",
        5000 * 2**40: "5,000.00 TiB",
    }
    assert {size: readable(size) for size in sizes} == sizes


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("model name: A\ncpu family: 25\nmodel: 17\nflags: avx2 avx512f", "A, family 25 model 17, AVX-512"),
        ("model name\t: Core\nflags\t: sse2 avx2\n\nmodel name: another core", "Core, AVX2"),
        ("processor: 0\nmodel name: Neoverse\nFeatures: fp", "Neoverse"),
    ],
)
def test_a_processor_is_told_from_another(tmp_path, monkeypatch, lines, told):
    (tmp_path / "cpuinfo").write_text(lines)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor().endswith(f"-core CPU ({told})")


def test_a_processor_has_a_name_where_there_is_no_cpuinfo(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    assert "-core CPU ()" not in machine.processor()
