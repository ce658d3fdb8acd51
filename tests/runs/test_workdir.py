import json
import os
import shlex
import subprocess
import sys
import textwrap

import pytest

from memjax.config_file import load_config
from memjax.machine import processor
from memjax.runs.same_run import differences, identity, words_to_go_on
from memjax.runs.series import load_run
from memjax.runs.workdir import (
    open_workdir,
    read_json,
    write_json,
    write_manifest,
)
from memjax.training.config import load_workdir_config, resolve
from memjax.types import ConfigError


@pytest.fixture
def config(config_file, registries):
    return resolve(load_config(str(config_file)), **registries)


def changed(config_file, registries, field, text):
    return resolve(load_config(str(config_file), [(field, text)]), **registries)


def test_config_comes_back(tmp_path, config, registries):
    with open_workdir(tmp_path / "a" / "run", config.raw) as workdir:
        assert load_workdir_config(workdir, **registries) == config


def begin(workdir):
    """As after the first checkpoint."""
    (workdir / "checkpoints" / "5").mkdir(parents=True)


def test_the_same_run_may_be_opened_again_and_extended(tmp_path, config, config_file, registries):
    longer = changed(config_file, registries, "run.total_steps", "9999")
    with open_workdir(tmp_path, config.raw):
        begin(tmp_path)
    for each in (config, config, longer):
        with open_workdir(tmp_path, each.raw):
            pass
    assert load_workdir_config(tmp_path, **registries).run.total_steps == 9999
    with pytest.raises(ConfigError, match=r"run.total_steps is 9999"), open_workdir(tmp_path, config.raw):
        pass


def test_another_run_is_refused_by_its_first_different_field(tmp_path, config, config_file, registries):
    with open_workdir(tmp_path, config.raw):
        begin(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    other = changed(config_file, registries, "agent.learning_rate", "0.1")
    with pytest.raises(ConfigError) as error, open_workdir(tmp_path, other.raw):
        pass
    assert error.value.field == "workdir"
    words = "--config.agent.learning_rate=0.001"
    said = f"agent.learning_rate is 0.001 (use another --workdir, or go on with it by {words})"
    assert said in error.value.expected
    assert error.value.got == "0.1"
    assert (tmp_path / "config.json").read_bytes() == before


def test_no_resume_refuses_a_run_and_touches_nothing(tmp_path, config):
    with open_workdir(tmp_path, config.raw, resume=False):
        (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with (
        pytest.raises(ConfigError, match="without checkpoints"),
        open_workdir(tmp_path, config.raw, resume=False),
    ):
        pass
    assert (tmp_path / "checkpoints" / "5").is_dir()


HOLDER = """
    import fcntl, sys, os, time
    file = open(sys.argv[1], "a+")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0); file.write(str(os.getpid())); file.flush()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_one_dies(tmp_path, config):
    with open_workdir(tmp_path, config.raw):
        pass
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "lock")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    with (
        pytest.raises(ConfigError, match=f"process {process.pid} is running"),
        open_workdir(tmp_path, config.raw),
    ):
        pass
    process.kill()
    process.communicate()
    with open_workdir(tmp_path, config.raw):
        pass


def test_the_lock_holds_within_one_process_too(tmp_path, config):
    refused = pytest.raises(ConfigError, match=f"process {os.getpid()}")
    with open_workdir(tmp_path, config.raw), refused, open_workdir(tmp_path, config.raw):
        pass


def test_a_place_that_cannot_be_written_is_refused(tmp_path, config):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        refused = pytest.raises(ConfigError, match="workdir: expected a directory that can be written")
        with refused, open_workdir(place, config.raw):
            pass


def test_a_launch_that_did_nothing_does_not_block_the_workdir(tmp_path, config, config_file, registries):
    other = changed(config_file, registries, "agent.learning_rate", "0.1")
    with pytest.raises(RuntimeError, match="no room"), open_workdir(tmp_path, config.raw):
        raise RuntimeError("no room")
    with open_workdir(tmp_path, other.raw):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert load_workdir_config(tmp_path, **registries) == other
    with pytest.raises(ConfigError, match="use another --workdir"), open_workdir(tmp_path, config.raw):
        pass


@pytest.mark.parametrize(
    "sign", ["checkpoints/7/x", "checkpoints/damaged-7/x", "metrics.jsonl", "experience.sqlite"]
)
def test_a_run_whose_config_is_gone_is_not_adopted(tmp_path, config, sign):
    (tmp_path / sign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / sign).write_text("something")
    refused = pytest.raises(ConfigError, match=r"config\.json beside the run in it, got .* without it")
    with refused, open_workdir(tmp_path, config.raw):
        pass
    assert not (tmp_path / "config.json").exists()


def test_the_words_that_go_on_with_a_run_are_those_of_its_config(config_file, registries):
    def resolved(*fields):
        return resolve(load_config(str(config_file), fields), **registries).raw

    stored = resolved(("agent.hidden", "8,4"), ("seed", "3"))
    words = shlex.split(words_to_go_on(differences(stored, resolved())))
    fields = [tuple(word.removeprefix("--config.").split("=", 1)) for word in words]
    assert [name for name, _ in fields] == ["agent.hidden", "seed"]
    assert resolved(*fields) == stored
    other = {**stored, "agent": {"name": "other"}}
    assert words_to_go_on(differences(stored, other)) == ""  # another agent, not another setting
    assert words_to_go_on([("tasks.sha256", "a", "b")]) == ""


def test_a_directory_without_a_run_says_what_may_have_been_meant(tmp_path):
    for name in ("rooms", "ppo"):
        with open_workdir(tmp_path / name, {}):
            pass
    for read in (load_workdir_config, load_run):
        with pytest.raises(ConfigError, match=r"rooms2', which does not exist \(did you mean '.*/rooms'\?\)"):
            read(tmp_path / "rooms2")
        with pytest.raises(ConfigError, match=r"which holds runs: .*/ppo, .*/rooms$"):
            read(tmp_path)
    with pytest.raises(ConfigError, match=r"nothing/else', which does not exist$"):
        load_run(tmp_path / "nothing" / "else")
    with pytest.raises(ConfigError, match=r"config.json', which is a file$"):
        load_run(tmp_path / "ppo" / "config.json")


def test_checkpoints_that_are_a_file_are_refused(tmp_path, config):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(ConfigError, match=r"a folder at .*checkpoints, or nothing, got a file"):  # noqa: SIM117
        with open_workdir(tmp_path, config.raw):
            pass


@pytest.mark.parametrize("content", ["[]", "{}", '{"launches": 3}', "3", "{", "[" * 100_000, "1" * 5000])
def test_a_damaged_manifest_is_named(tmp_path, config, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        write_manifest(tmp_path, config.raw)
    assert (tmp_path / "manifest.json").read_text() == content


@pytest.mark.parametrize("content", ["{", "", "\x00", '{"experiment": ', "[1]", "null", '{"a":' * 50_000])
def test_a_broken_config_json_is_named(tmp_path, config, content, registries):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_workdir_config(tmp_path, **registries)
    with pytest.raises(ConfigError, match=r"config\.json"), open_workdir(tmp_path, config.raw):
        pass


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"with config\.json in it"):
        load_workdir_config(tmp_path)


def test_manifest_tells_each_launch(tmp_path, config, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-7f3a")
    for _ in range(2):
        write_manifest(tmp_path, config.raw, ["environment states of envpool cannot be saved"])
    text = (tmp_path / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["seeds"] == [0, 1]
    assert manifest["not_reproducible"] == ["environment states of envpool cannot be saved"]
    assert len(manifest["launches"]) == 2
    launch = manifest["launches"][-1]
    assert launch["num_devices"] >= 1
    assert launch["processor"] == processor()
    assert launch["versions"]["jax"].count(".") == 2
    assert "canary" not in text


def test_json_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


def test_a_flipped_bit_in_a_json_file_is_found_wherever_it_is(tmp_path):
    path, values = tmp_path / "x.json", {"a": 1, "b": {"c": [0.5, "text", None]}}
    write_json(path, values)
    content = path.read_bytes()
    for at in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            try:
                assert read_json(path) == values
            except ConfigError:
                continue
    path.write_text(json.dumps(values))
    assert read_json(path) == values  # written by hand


def test_a_field_that_came_later_makes_no_other_run_of_one_without_it(tmp_path):
    later = {"agent.ppo.fade": 1, "agent.fade": 0}
    earlier = {"agent": {"ppo": {"clip": 0.2}, "targets": None}}
    now, other = ({"agent": {"ppo": {"clip": 0.2, "fade": n}, "targets": None}} for n in (1, 8))
    assert differences(earlier, now)[0] == ("agent.ppo.fade", None, 1)
    assert not differences(earlier, now, later=later)
    assert differences(earlier, other, later=later)[0] == ("agent.ppo.fade", 1, 8)
    with open_workdir(tmp_path, earlier):
        begin(tmp_path)
    with open_workdir(tmp_path, now, later=later):
        assert read_json(tmp_path / "config.json") == earlier  # so that its checkpoints are still its own
    with (
        pytest.raises(ConfigError, match=r"agent\.ppo\.fade is 1 \("),
        open_workdir(tmp_path, other, later=later),
    ):
        pass
    with pytest.raises(ConfigError, match=r"has no field agent\.ppo\.fade"), open_workdir(tmp_path, now):
        pass


def test_checkpoints_of_runs_that_had_one_group_of_environments_were_saved_without_that_field():
    earlier, now, other = (
        {"ppo": {"clip": 0.2, **groups}} for groups in ({}, {"env_groups": 1}, {"env_groups": 8})
    )
    assert identity(earlier) == identity(now) != identity(other)


CAME_LATER = {
    "four_rooms": ("bank.until_reward", "reflection.imitation_weight", "ppo.fade_updates", "ppo.env_groups"),
    "four_rooms:sil": ("imitation.demonstrations", "imitation.num_demonstrations", "ppo.env_groups"),
    "four_rooms:rnd": ("fade_updates", "env_groups"),
    "reframe:blend+former": (
        *("trust.promise", "trust.window", "trust.again", "read_out.activation", "read_out.loss"),
        *("transformer.returns", "optimizer.decay"),
    ),
}


@pytest.mark.parametrize("source", CAME_LATER)
def test_runs_of_earlier_versions_go_on_with_configs_of_this_one(tmp_path, source):
    """Without any field that came later, in the whole config."""
    config = resolve(load_config(source, []))
    assert {f"agent.{field}" for field in CAME_LATER[source]} < config.later.keys()
    old = json.loads(json.dumps(config.raw))
    for path in config.later:
        *sections, name = path.split(".")
        node = old
        for section in sections:
            node = node[section]
        assert node.pop(name) == config.later[path]
    with open_workdir(tmp_path, old):
        begin(tmp_path)
    before = identity(read_json(tmp_path / "config.json"))
    with open_workdir(tmp_path, config.raw, later=config.later) as workdir:
        assert load_workdir_config(workdir) == config
        assert identity(read_json(workdir / "config.json")) == before


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("seed", "1", False),
        ("agent.hidden", "16", False),
        ("run.log_every", "1", False),
        ("run.total_steps", "9999", True),
        ("run.keep_checkpoints", "9", True),
    ],
)
def test_the_identity_is_that_of_what_may_be_continued(config_file, registries, field, value, same):
    config, other = (
        resolve(load_config(str(config_file)), **registries),
        changed(config_file, registries, field, value),
    )
    assert (identity(config.raw) == identity(other.raw)) is same
