"""Where metrics go beside metrics.jsonl: each sink, a run that is resumed, and a sink that fails."""

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from doc_blocks import ROOT, python_files

from memjax.config_file import load_config
from memjax.runs.metrics import MetricsWriter, read_metrics
from memjax.runs.series import load_run
from memjax.runs.sinks import RunInfo, Sinks, by_seed, means
from memjax.training import sinks as table
from memjax.training.config import resolve
from memjax.training.sinks import check_sinks, open_sinks, register_sink, resolve_sinks
from memjax.types import ConfigError

TENSORBOARD = {"tensorboard": {"on": True, "seeds": True}}
WANDB = {"wandb": {"on": True, "project": "p", "entity": "", "mode": "offline", "seeds": True}}
CSV = {"csv": {"on": True}}
SEEDS = {"return": [1.0, 3.0, None], "loss": 0.5}


def write(workdir, steps, sections, after=0, first_seed=4):
    workdir.mkdir(exist_ok=True)
    sinks = open_sinks(resolve_sinks(sections), workdir, {"seed": 4}, after=after, first_seed=first_seed)
    with MetricsWriter(workdir, after=after, sinks=sinks) as writer:
        for step in steps:
            values = {"train/return": np.asarray([step, 3.0 * step, np.nan]), "loss": np.float32(0.5)}
            writer.write(step, values)


def events_in(folder):
    """(step, values by tag, event) of each record of a folder: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        content = path.read_bytes()
        while content:
            end = 12 + int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12:end])
            found.append((event.step, {x.tag: x.simple_value for x in event.summary.value}, event))
            content = content[end + 4 :]
    return found


def test_means_and_seeds_of_a_line():
    values = {"return": [1.0, 3.0, float("nan")], "loss": 0.5, "one": [2.0], "none": [float("nan")] * 3}
    assert means(values) == {"return": 2.0, "loss": 0.5, "one": 2.0}
    assert list(by_seed(values)) == [(0, {"return": 1.0}), (1, {"return": 3.0}), (2, {})]
    assert list(by_seed({"loss": 0.5, "one": [2.0]})) == []


def test_tensorboard_has_a_run_for_each_seed_beside_the_mean(tmp_path):
    write(tmp_path, [10, 20], TENSORBOARD)
    mean = [(step, values) for step, values, _ in events_in(tmp_path / "tensorboard") if values]
    assert mean == [(10, {"train/return": 20.0, "loss": 0.5}), (20, {"train/return": 40.0, "loss": 0.5})]
    one = [(step, values) for step, values, _ in events_in(tmp_path / "tensorboard" / "seed_5") if values]
    assert one == [(10, {"train/return": 30.0}), (20, {"train/return": 60.0})]
    write(tmp_path / "plain", [10], {"tensorboard": {"on": True, "seeds": False}})
    assert not list((tmp_path / "plain" / "tensorboard").glob("seed_*"))


def test_events_of_a_resumed_run_hide_those_after_its_checkpoint(tmp_path):
    write(tmp_path, [3], TENSORBOARD, after=2)
    for folder in (tmp_path / "tensorboard", tmp_path / "tensorboard" / "seed_4"):
        _, version, purge, value = [event for _, _, event in events_in(folder)]
        assert (version.step, version.file_version) == (3, "brain.Event:2")
        assert (purge.step, purge.session_log.status) == (3, purge.session_log.START)
        assert value.step == 3


@pytest.mark.parametrize("after", [0, 2, 3])
@pytest.mark.parametrize("torn", ["", "3,train/ret"])
def test_a_csv_of_a_resumed_run_is_that_of_one_never_interrupted(tmp_path, after, torn):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    write(whole, [1, 2, 3, 4], CSV)
    write(parts, [1, 2, 3], CSV)
    with open(parts / "metrics.csv", "a") as file:
        file.write(torn)
    write(parts, range(after + 1, 5), CSV, after=after)
    text = (whole / "metrics.csv").read_text()
    assert (parts / "metrics.csv").read_text() == text
    assert text.splitlines()[:4] == [
        "step,metric,seed,value",
        "1,train/return,4,1.0",
        "1,train/return,5,3.0",
        "1,loss,,0.5",
    ]


class FakeRun:
    def __init__(self, settings):
        self.settings, self.history, self.step, self.finished = settings, {}, 0, 0

    def log(self, values, step):
        assert step >= self.step, "W&B drops steps that it has"
        self.history[step], self.step = values, step + 1

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the package: keeps runs by their id, as its server does."""
    runs = {}

    def init(**settings):
        run = runs.setdefault(settings["id"], FakeRun(settings))
        run.settings = settings
        return run

    fake = SimpleNamespace(init=init, Settings=lambda **settings: settings, runs=runs)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_a_resumed_run_continues_its_run_of_wandb(tmp_path, wandb):
    write(tmp_path, [1, 2, 3], WANDB)
    write(tmp_path, [3, 4], WANDB, after=2)  # killed after step 3, whose checkpoint was that of step 2
    [run] = wandb.runs.values()
    assert list(run.history) == [1, 2, 3, 4]
    assert run.history[4] == {
        "train/return": 8.0,
        "loss": 0.5,
        "seed_4/train/return": 4.0,
        "seed_5/train/return": 12.0,
    }
    assert run.finished == 2
    sent = run.settings
    assert (sent["project"], sent["entity"], sent["mode"], sent["resume"]) == ("p", None, "offline", "allow")
    assert sent["config"] == {"seed": 4}
    assert sent["dir"] == str(tmp_path)
    write(tmp_path / "other", [1], WANDB)
    assert len(wandb.runs) == 2


def test_nothing_is_made_of_a_sink_that_is_off(tmp_path, wandb):
    write(tmp_path, [1], {"wandb": WANDB["wandb"] | {"on": False}, "csv": {"on": False}})
    assert not wandb.runs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "timing.jsonl"]


class Broken:
    """Fails at the third line, or when it is closed."""

    def __init__(self, at=3):
        self.at, self.lines = at, []

    def write(self, step, values):
        if step == self.at:
            raise ConnectionError("the server\nis gone")
        self.lines.append(step)

    def close(self):
        raise TimeoutError("still sending")


def test_a_sink_that_fails_is_one_line_and_the_metrics_are_whole(tmp_path, capsys):
    fails, late = Broken(), Broken(at=0)

    def cannot(info):
        raise PermissionError(f"no access for {info.first_seed}")

    makers = {"never": cannot, "fails": lambda info: fails, "late": lambda info: late}
    sinks = Sinks(makers, RunInfo(tmp_path, {}, 0, 7))
    with MetricsWriter(tmp_path, sinks=sinks) as writer:
        for step in range(1, 6):
            writer.write(step, {"x": step})
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert (fails.lines, late.lines) == ([1, 2], [1, 2, 3, 4, 5])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "'never' (PermissionError: no access for 7)" in lines[0]
    assert "'fails' (ConnectionError: the server is gone); the run goes on" in lines[1]
    assert "'late' (TimeoutError: still sending)" in lines[2]


def test_a_disk_that_is_full_ends_the_events_and_nothing_waits(tmp_path):
    program = """
        import pathlib, resource, sys
        from memjax.runs.metrics import MetricsWriter
        from memjax.runs.sinks import RunInfo, Sinks
        from memjax.runs.tensorboard import TensorBoard
        folder = pathlib.Path(sys.argv[1])
        makers = {"tensorboard": lambda info: TensorBoard(info, seeds=False)}
        writer = MetricsWriter(folder, sinks=Sinks(makers, RunInfo(folder, {}, 0, 0)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            for step in range(1, 100_000):
                if step < 500:
                    writer._metrics.file.truncate(0)  # so that the events reach the limit first
                writer.write(step, {f"value/{i}": i for i in range(8)})
        except OSError as error:
            print("refused at", step, error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.stderr.count("memjax: nothing more goes to the sink 'tensorboard' (OSError") == 1
    assert run.stdout.startswith("refused at")
    assert "File too large" in run.stdout


@dataclass(frozen=True)
class MySection:
    on: bool
    place: str


@pytest.fixture
def empty_table(monkeypatch):
    monkeypatch.setattr(table, "SINKS", dict(table.SINKS))


def test_a_sink_of_ones_own(tmp_path, empty_table):
    made = []

    def make(section, info):
        made.append((section.place, info.workdir, info.after))
        return Broken(at=0)

    register_sink("mine", config=MySection, make=make)
    write(tmp_path, [9], {"mine": {"on": True, "place": "here"}}, after=8)
    assert made == [("here", tmp_path, 8)]
    with pytest.raises(ConfigError, match="a name that no sink has"):
        register_sink("mine", config=MySection, make=make)
    with pytest.raises(ConfigError, match="a field on"):
        register_sink("other", config=dataclass(frozen=True)(type("S", (), {})), make=make)
    with pytest.raises(ConfigError, match="a function"):
        register_sink("other", config=MySection, make=None)


def test_mistakes_in_the_section(monkeypatch):
    with pytest.raises(ConfigError, match=r"sinks\.wanbd: expected one of .*did you mean 'wandb'"):
        resolve_sinks({"wanbd": {}})
    with pytest.raises(ConfigError, match=r"sinks\.wandb\.mode"):
        resolve_sinks({"wandb": WANDB["wandb"] | {"mode": "of"}})
    with pytest.raises(ConfigError, match=r"sinks\.wandb\.project"):
        resolve_sinks({"wandb": WANDB["wandb"] | {"project": ""}})
    assert resolve_sinks(None)["tensorboard"].on
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sinks\.wandb\.on: expected the package wandb: pip install"):
        check_sinks(resolve_sinks(WANDB))
    check_sinks(resolve_sinks({"wandb": WANDB["wandb"] | {"on": False}}))


def test_sinks_may_change_between_two_launches():
    from memjax.runs.same_run import differences

    assert not differences({"seed": 1}, {"seed": 1, "sinks": WANDB})
    assert differences({"seed": 1}, {"seed": 2, "sinks": WANDB})[0] == ("seed", 1, 2)


def test_the_sink_of_the_page_prints_and_its_config_is_checked(tmp_path, empty_table, capsys):
    page = Path("docs/tracking.md")
    if not (ROOT / page).is_file():
        pytest.skip("no documents beside the tests")
    files = python_files(page)
    exec(compile(files["my_sink.py"], "my_sink.py", "exec"), {"__name__": "my_sink"})
    write(tmp_path, [9], {"printer": {"on": True, "metric": "train/return"}})
    assert capsys.readouterr().out == "9 18.0\n"
    (tmp_path / "my_tracked.py").write_text(files["my_tracked.py"])
    found = resolve(load_config(str(tmp_path / "my_tracked.py"))).sinks
    assert (found["printer"].metric, found["tensorboard"].on, found["wandb"].on) == (
        "train/return",
        True,
        False,
    )


@pytest.mark.slow
def test_wandb_itself_offline(tmp_path):
    pytest.importorskip("wandb")
    write(tmp_path, [1, 2], WANDB)
    write(tmp_path, [2, 3], WANDB, after=1)
    name = (tmp_path / "wandb_id").read_text()
    folders = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) >= 1
    assert all(folder.endswith(name) for folder in folders)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3
    assert load_run(tmp_path).num_seeds == 3
