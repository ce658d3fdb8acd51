"""Where time goes: parts of a program's operations, counts of its products, and the page of the command."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from memjax.cli import main
from memjax.memory import make_memory
from memjax.training.profile import exchanged, part_of, parts_of, product_flops, shares


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(_chunk)/while/body/policy/dot_general", "policy"),
        ("jit(_chunk)/while/body/learning/transpose(jvp(Net))/dot_general", "learning"),
        ("jit(_chunk)/learning/memory.write/scatter", "memory write"),
        ("jit(_chunk)/policy/memory.retrieve/jit(nearest)/dot_general", "memory search"),
        ("jit(_chunk)/policy/jit(sample)/add", "policy"),
        ("jit(_chunk)/while/body/add", "other"),
        ("jit(_chunk)/my_policy/add", "other"),
    ],
)
def test_an_operation_belongs_to_the_innermost_part(op_name, part):
    assert part_of(op_name) == part


def test_every_function_of_a_memory_names_its_operations():
    memory = make_memory(32, 4, {"x": jnp.zeros(())}, evict="fifo", k=2)

    def step(state, keys):
        state, _ = memory.write(state, keys, {"x": keys[:, 0]})
        with jax.named_scope("policy"):
            return state, memory.retrieve(state, keys).scores

    text = jax.jit(step).lower(memory.init(), jnp.ones((3, 4))).compile().as_text()
    assert {"memory search", "memory write"} <= set(parts_of(text).values())


def test_shares_are_of_the_time_of_all_operations():
    parts = {"a": "policy", "b": "learning"}
    found = shares([("a", 2.0), ("a", 1.0), ("b", 4.0), ("unknown", 1.0)], parts)
    assert found == {"policy": 0.375, "learning": 0.5, "other": 0.125}
    assert shares([], parts) == {}


def test_an_unnamed_fusion_is_what_it_computes():
    text = """
%fused (p: f32[2]) -> f32[2] {
  %p = f32[2] parameter(0)
  ROOT %mul = f32[2] multiply(%p, %p), metadata={op_name="jit(f)/environment/mul"}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2] parameter(0)
  ROOT %fusion.1 = f32[2] fusion(%x), kind=kLoop, calls=%fused
}
"""
    assert parts_of(text) == {"mul": "environment", "fusion.1": "environment"}


def test_products_are_counted_as_often_as_they_run():
    x, w = jnp.ones((3, 4)), jnp.ones((4, 4))

    def run(x, w):
        def step(x, _):
            return jax.lax.cond(x[0, 0] > 0, lambda x: jnp.tanh(x @ w) @ w, lambda x: x @ w, x), None

        return jax.lax.scan(step, x, None, length=5)[0].sum()

    assert product_flops(jax.make_jaxpr(run)(x, w).jaxpr) == 5 * 2 * (2 * 3 * 4 * 4)
    image, kernel = jnp.ones((2, 3, 8, 8)), jnp.ones((5, 3, 3, 3))
    convolve = partial(jax.lax.conv, window_strides=(1, 1), padding="VALID")
    assert product_flops(jax.make_jaxpr(convolve)(image, kernel).jaxpr) == 2 * (2 * 5 * 6 * 6) * 27


def test_what_devices_exchange_counts_as_often_as_its_loop_runs():
    text = """
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %ar = (f32[4]{0}, bf16[]) all-reduce(%x, %y), to_apply=%add, metadata={op_name="a"}
  %ag = pred[2,8]{1,0} all-gather-done(%s)
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %w = (s32[], f32[4]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %if = f32[4] conditional(%b, %x, %y), branch_computations={%body, %other}
  ROOT %g = u8[5,2]{1,0} all-gather(%x), dimensions={0}
}
"""
    assert exchanged(text) == {"all-gather": 4 * 16 + 10, "all-reduce": 4 * 18}


EVERY = ["run.log_every=2", "run.eval_every=0", "run.checkpoint_every=0"]
PPO = ["agent.widths=8,", "agent.epochs=1", "agent.minibatches=2", "agent.rollout_steps=16", "env.num_envs=8"]


def command(config, *fields):
    words = [f"--config.{field}" for field in (*PPO, *EVERY, *fields)]
    return ["profile", f"--config={config}", "--chunks=1", *words]


def test_the_page_of_a_run(tmp_path, capsys):
    assert main([*command("four_rooms:ppo"), f"--out={tmp_path}"]) == 0
    page = capsys.readouterr().out
    found = {name: float(share) for name, share in re.findall(r"^(\w[\w ]*?) +([\d.]+)% ", page, re.M)}
    assert {"environment", "policy", "learning"} <= set(found)
    assert sum(found.values()) == pytest.approx(100, abs=0.5)
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert "matrix products: " in page


def test_the_page_of_a_run_over_envpool(capsys):
    assert main(command("classic:CartPole+ppo")) == 0
    page = capsys.readouterr().out
    assert "waits for rollouts" in page
    assert "share of the actor's time" in page
