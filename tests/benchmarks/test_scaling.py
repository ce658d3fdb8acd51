"""The page on scale says what its program says, and the program's formulas agree with other ways to count."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.scaling import costs, measured, picture, tables, text
from benchmarks.scaling.__main__ import DOCS, MEASURED, PAPER, filled, markers
from benchmarks.scaling.devices import H200, SLICES, USABLE, V5E_8, V5E_256, V5E_CHIP, Slice
from memjax.memory import POLICIES, make_memory, plan_bytes

V5E_1 = Slice("v5e-1", V5E_CHIP)


def test_the_tables_of_the_page_are_those_of_the_program():
    """After a change of the state or of a formula: python -m benchmarks.scaling --write."""
    page = (DOCS / "scaling.md").read_text()
    for name, make in PAPER.items():
        begin, end = markers(name)
        assert page.split(begin)[1].split(end)[0].strip() == make(), f"{name}: run benchmarks.scaling --write"


def test_the_page_has_every_block_and_no_other():
    page = (DOCS / "scaling.md").read_text()
    blocks = [line.removeprefix("<!-- generated: ").removesuffix(" -->") for line in page.splitlines()]
    assert {name for name in blocks if markers(name)[0] in page} == {*PAPER, *MEASURED}
    assert (DOCS / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_filling_a_page():
    page = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n"
    once = filled(page, {"x": lambda: "new"})
    assert once == "a\n<!-- generated: x -->\n\nnew\n\n<!-- end: x -->\nb\n"
    assert filled(once, {"x": lambda: "new"}) == once
    with pytest.raises(ValueError, match="markers"):
        filled(page, {"y": lambda: "new"})


@pytest.mark.parametrize("d", tables.WIDTHS)
@pytest.mark.parametrize("dtype", tables.DTYPES)
@pytest.mark.parametrize("machine", SLICES, ids=lambda machine: machine.name)
def test_the_largest_memory_fits_and_one_percent_more_does_not(machine, dtype, d):
    most = costs.most_slots(machine, d, dtype) // machine.chips
    options = dict(key_dim=d, value_like=costs.VALUE, evict="fifo", key_dtype=jnp.dtype(dtype))
    plan = functools.partial(plan_bytes, **options)
    assert plan(most - 1) <= USABLE * machine.chip.memory < plan(int(1.01 * most))


@pytest.mark.parametrize("evict", POLICIES)
def test_an_index_adds_less_than_a_byte_a_slot(evict):
    """As the page says."""
    assert 0 <= costs.slot_bytes(64, "bfloat16", evict) - costs.slot_bytes(64, "bfloat16") < 1


@pytest.mark.parametrize(("q", "n", "d"), [(1, 4096, 64), (64, 1024, 384)])
def test_operations_are_those_that_the_compiler_counts(q, n, d):
    product = jax.jit(lambda x, y: x @ y.T).lower(jnp.zeros((q, d)), jnp.zeros((n, d))).compile()
    assert costs.scan(H200, q, n, d, "float32", 8).operations == product.cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("machine", "q", "n", "d", "seconds"),
    [
        (H200, 1, 1_000_000, 1024, 427e-6),
        (H200, 256, 100_000, 64, 3.3e-6),
        (H200, 4096, 1_000_000, 128, 1.06e-3),
        (V5E_1, 256, 100_000, 64, 17e-6),
        (V5E_1, 1280, 60_000, 128, 0.1e-3),
    ],
)
def test_rooflines_worked_out_by_hand(machine, q, n, d, seconds):
    assert costs.scan(machine, q, n, d, "bfloat16", 32).seconds == pytest.approx(seconds, rel=0.03)


def test_more_chips_divide_the_scan():
    one, many = (costs.scan(m, 64, 2**28, 64, "int8", 32) for m in (V5E_1, V5E_256))
    assert many.operations == one.operations / 256
    assert many.seconds == pytest.approx(one.seconds / 256, rel=0.01)


@pytest.mark.parametrize("q", tables.BATCHES)
def test_no_method_beats_the_fused_scan(q):
    for machine in SLICES:
        common = (machine, q, 10**6, 64, "bfloat16", 32)
        least = costs.scan(*common).seconds
        assert costs.materialised(*common).seconds >= least
        assert costs.grouped(*common).seconds >= least
        assert costs.binned(*common, 0.95).seconds >= least


def test_bins_are_enough_for_their_recall():
    """k good items thrown into bins at random: the share that shares none with a better one."""
    rng = np.random.default_rng(0)
    kept = costs.bins(10**6, 32, 0.95)
    bins = rng.integers(0, kept, (2000, 32))
    recall = np.mean([len(set(row)) for row in bins.tolist()]) / 32
    assert recall > 0.95


@pytest.mark.parametrize("share", tables.SHARES)
@pytest.mark.parametrize("q", tables.BATCHES)
def test_the_lists_that_a_batch_reads(q, share):
    n, d = 10**6, 64
    rng = np.random.default_rng(0)
    lists = 4000
    chosen = {i for _ in range(q) for i in rng.choice(lists, round(share * lists), replace=False).tolist()}
    read = costs.inverted(H200, q, n, d, "bfloat16", 32, share).bytes - 4 * q * d - 8 * q * 32
    assert read == pytest.approx(
        (lists + n * len(chosen) / lists) * costs.read_bytes(d, "bfloat16"), rel=0.02
    )


def test_a_crossover_is_where_the_gain_begins():
    def lists(n):
        return 1e5 + n / 10

    found = costs.crossover(float, lists, 2.0)
    assert found >= 2 * lists(found)
    assert found / 10 ** (1 / 20) < 2.5e5 <= found
    assert costs.crossover(float, lambda n: 0.6 * n, 2.0) is None
    assert costs.crossover(float, lambda n: 0.1 * n, 2.0) == 1000


def test_merging_by_axis_moves_less_in_a_torus():
    for machine in (V5E_8, V5E_256):
        at_once, by_axis = (way(machine, 1280, 32, 8)[0] for way in (costs.gather, costs.gather_by_axis))
        received = sum(axis - 1 for axis in machine.axes) / (machine.chips - 1)
        assert by_axis == pytest.approx(received * at_once)


def test_what_a_shard_receives_is_what_jax_gathers():
    """The shapes of an all-gather of k scores and slots a query, less the shard's own."""
    mesh = jax.sharding.AbstractMesh((8,), ("shards",))
    spec = jax.sharding.PartitionSpec(None, "shards")
    gather = jax.shard_map(
        lambda x: jax.lax.all_gather(x, "shards", axis=1, tiled=True),
        mesh=mesh,
        in_specs=spec,
        out_specs=jax.sharding.PartitionSpec(),
        check_vma=False,
    )
    q, k = 64, 32
    parts = [jax.ShapeDtypeStruct((q, 8 * k), dtype) for dtype in (jnp.float32, jnp.int32)]
    whole = sum(x.size * x.dtype.itemsize for x in (jax.eval_shape(gather, part) for part in parts))
    assert costs.gather(V5E_8, q, k, costs.ROW_BYTES)[0] == whole * 7 / 8


@pytest.mark.parametrize("n", [1000, 100_000, 10_000_000])
def test_the_tree_of_a_write_has_the_levels_of_the_memory(n):
    """Counted from the index that "lowest_utility" keeps."""
    state = jax.eval_shape(make_memory(n, 2, jnp.zeros(()), evict="lowest_utility").init)
    levels = len(state.index)
    opened = costs.victim_bytes(128, n)
    if levels == 0:
        assert opened == costs.ORDER_BYTES * n
    else:
        top = state.index[-1][0].shape[0]
        expected = 8 * top + levels * 128 * (2 * 16 * costs.ORDER_BYTES + 8)
        assert opened == pytest.approx(expected, rel=0.01), "levels are padded by a few nodes"


OLD = {
    "device": "2-core CPU",
    "figures": [
        {
            "name": name,
            "setting": f"N = 100,000, Q = {q}, k = 8, D = 64",
            "seconds": 2 * floor,
            "floor_seconds": floor,
        }
        for q, floor in ((1, 4 * 64 * 1e5 / 50e9), (64, 2 * 64 * 1e5 * 64 / 200e9))
        for name in ("nearest, auto", "nearest, plain")
    ],
}
ROW = dict(q=256, n=1_000_000, d=64, k=32, metric="dot", dtype="bfloat16", seconds=1e-4, floor_seconds=1.0)
NEW = {
    "device": "1 x NVIDIA H200",
    "ceilings": {"read": 4e12, "product": {"float32": {"64": 5e13}}},
    "sections": [
        {"title": "Headline", "kind": "search", "rows": [ROW, ROW | {"metric": "l2"}]},
        {"title": "Compile", "kind": "other", "rows": [{"a": 1}]},
    ],
}


def stored(folder, **results):
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    return folder


def test_result_files_give_ratios(tmp_path):
    lines = measured.compared(stored(tmp_path, old=OLD, new=NEW)).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["nearest, headline", "nearest, auto", "nearest, auto"]
    assert all(line.endswith("| 0.50 |") for line in lines[1:])
    predicted = costs.scan(H200, 256, 1_000_000, 64, "bfloat16", 32).seconds
    assert lines[0].endswith(f"| {text.time(predicted)} | 100 us | {predicted / 1e-4:.2f} |")


def test_the_ceilings_of_the_host(tmp_path):
    assert measured.host(tmp_path) is None
    assert "No result" in measured.on_the_host(tmp_path)
    host = measured.host(stored(tmp_path, old=OLD))
    assert host.chip.bandwidth == pytest.approx(50e9)
    assert host.chip.rates["float32"] == pytest.approx(200e9)
    host = measured.host(stored(tmp_path, new=NEW | {"device": "4-core CPU (AMD EPYC, AVX-512)"}))
    assert (host.name, host.chip.bandwidth, host.chip.rates["float32"]) == ("4-core CPU", 4e12, 5e13)
    assert "50,000 GFLOP/s" in measured.on_the_host(tmp_path)


def test_the_result_files_at_hand_can_be_read():
    assert all(make() for make in MEASURED.values())
    assert all(row.measured > 0 < row.predicted for row in measured.searches())


def test_the_picture(tmp_path):
    picture.draw(tmp_path / "x.png")
    assert 20_000 < (tmp_path / "x.png").stat().st_size < 200_000


def test_numbers_in_words():
    assert [text.time(s) for s in (4.27e-6, 9.994e-4, 9.996e-4, 12.0)] == [
        "4.27 us",
        "999 us",
        "1 ms",
        "12 s",
    ]
    assert [text.amount(b) for b in (12, 1790, 15e9, 2.57e12)] == ["12 B", "1.79 kB", "15 GB", "2.57 TB"]
    assert [text.number(x) for x in (1e6, 213e6, 10**10)] == ["1e6", "2.13e8", "1e10"]
