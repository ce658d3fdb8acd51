import json

import matplotlib.image
import numpy as np
import pytest

from memjax.commands.aggregates import interquartile_band, interquartile_mean, interval
from memjax.commands.curves import PANELS, panels_of
from memjax.commands.figures import COLOURS
from memjax.commands.report import report, summary
from memjax.runs.metrics import MetricsWriter
from memjax.runs.series import Run, load_run, load_runs
from memjax.types import ConfigError


def run_dir(path, seeds=3, **extra):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"experiment": "cliff"}))
    with MetricsWriter(path) as writer:
        for i in range(1, 6):
            success = np.linspace(0.1, 0.2, seeds) * i
            values = {"train/success": success, "train/return": success - 1, "loss/policy": success}
            writer.write(i * 100, values | {name: success for name in extra.get("also", ())})
        writer.write(500, {"eval/policy/success": np.asarray([0.25, 0.5, np.nan][:seeds])})
    return path


def test_report_draws_a_picture_and_prints_a_table(tmp_path, capsys):
    runs = [
        run_dir(tmp_path / "a", also=["gate/rate", "memory/success/fill"]),
        run_dir(tmp_path / "b", seeds=1),
    ]
    out = report(runs)
    assert out == tmp_path / "a" / "report.png"
    image = matplotlib.image.imread(out)
    colours = {tuple(np.round(c * 255).astype(int)) for c in image[..., :3].reshape(-1, 3)[::3]}
    for colour in COLOURS[:2]:  # both runs are in the picture
        assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in colours
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "a", "b"]
    assert lines[1].split() == ["step", "500", "500"]
    (row,) = [line for line in lines if line.startswith("eval/policy/success")]
    assert row.split("  ", 1)[1].split() == ["0.375", "[0.25,", "0.5]", "0.25"]
    (row,) = [line for line in lines if line.startswith("gate/rate")]
    assert row.split()[-1] == "-"


def test_out_is_where_asked(tmp_path, capsys):
    assert report([run_dir(tmp_path / "a")], tmp_path / "deep" / "x.png").stat().st_size > 10_000


def test_series_keeps_seeds_apart(tmp_path):
    steps, values = load_run(run_dir(tmp_path / "a")).series("train/success")
    np.testing.assert_array_equal(steps, [100, 200, 300, 400, 500])
    np.testing.assert_allclose(values[-1], [0.5, 0.75, 1.0])


def test_panels_show_what_the_run_has(tmp_path):
    run = load_run(run_dir(tmp_path / "a", also=["intrinsic/coarse", "intrinsic/fine"]))
    shown = {panel.title for panel in PANELS if any(run.metrics(pattern) for pattern in panel.patterns)}
    assert shown == {"Evaluation", "Training episodes", "Intrinsic reward"}


def test_a_panel_with_the_curves_of_another_is_left_out(tmp_path):
    """Where the only reward is 1 for success, returns are successes."""
    path = run_dir(tmp_path / "a", also=["eval/policy/return"])
    with MetricsWriter(tmp_path / "a", after=10_000) as writer:
        writer.write(600, {"eval/policy/return": np.asarray([0.1, 0.2, 0.3])})
    labels = [(panel.title, panel.label) for panel in panels_of([load_run(path)])]
    assert ("Training episodes", "episode return") in labels  # success minus 1
    one = run_dir(tmp_path / "b", also=["x"])
    rows = [
        row | {"train/return": row["train/success"]} for row in load_run(one).rows if "train/success" in row
    ]
    labels = [(panel.title, panel.label) for panel in panels_of([Run("b", "b", rows)])]
    assert labels == [("Training episodes", "success rate")]


def test_seeds_are_thin_lines_where_asked_for_and_one_seed_is_marked(tmp_path, monkeypatch):
    from matplotlib import pyplot

    counts, texts = [], []

    def keep(figure):
        counts.append(max(len(axis.lines) for axis in figure.axes))
        texts.extend(text.get_text() for legend in figure.legends for text in legend.get_texts())

    monkeypatch.setattr(pyplot, "close", keep)
    runs = [run_dir(tmp_path / "a"), run_dir(tmp_path / "b", seeds=1)]
    report(runs, tmp_path / "x.png")
    report(runs, tmp_path / "y.png", seed_lines=True)
    assert counts == [2, 5]
    assert texts == ["a", "b (1 seed)"] * 2


def test_a_band_is_the_interval_of_each_place():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 10)) + np.arange(3)[:, None]
    values[1, 4:] = np.nan
    middle, low, high = interquartile_band(values, draws=4_000)
    for i, row in enumerate(values):
        known = row[~np.isnan(row)]
        assert middle[i] == interquartile_mean([known])
        np.testing.assert_allclose([low[i], high[i]], interval(interquartile_mean, [known]), atol=0.12)
    assert np.all(low <= middle)
    assert np.all(middle <= high)


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [run_dir(tmp_path / "x" / "run"), run_dir(tmp_path / "y" / "run")]
    runs = load_runs(paths)
    assert [run.name for run in runs] == [str(path) for path in paths]
    assert all(run.name in summary(runs) for run in runs)


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.jsonl"):
        report([tmp_path])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss/x": 1.0}\n')
    with pytest.raises(ConfigError, match="metrics that the report knows"):
        report([tmp_path])


def test_a_folder_of_any_name_is_in_the_legend_as_it_is(tmp_path, monkeypatch):
    from matplotlib import pyplot

    names = ["_base", "__", "a$b", "$x^{$", "per cent %", "\\frac{1}", "\u00e9_$", "plain"]
    shown = []

    def keep(figure):
        legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()] + figure.legends
        shown.extend(text for legend in legends for text in legend.get_texts())

    monkeypatch.setattr(pyplot, "close", keep)
    runs = [run_dir(tmp_path / name) for name in names]
    for run in runs:
        (run / "config.json").write_text(json.dumps({"experiment": " ".join(names)}))
    assert report(runs, tmp_path / "out.png").stat().st_size > 5_000
    assert {text.get_text() for text in shown} >= set(names)
    assert not any(text.get_parse_math() for text in shown)


GOOD = '{"step": 1, "train/return": [1.0, null]}\n'


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "", "JSON as this command writes it"),
        ("config.json", "[]", "a JSON object"),
        ("config.json", "{}", "config.json: experiment: expected a name, got None"),
        ("config.json", '{"experiment": ["a"]}', "experiment: expected a name"),
        ("config.json", "[" * 50_000, "JSON as this command writes it"),
        (
            "metrics.jsonl",
            GOOD + '{"step": 2, "train/return": [1.0, "2"]}\n',
            "step 2: train/return: expected",
        ),
        ("metrics.jsonl", GOOD + '{"step": 2, "train/return": [1.0]}\n', "as many numbers as in the lines"),
        ("metrics.jsonl", '{"step": 1, "train/return": []}\n', "a number, or as many"),
        (
            "metrics.jsonl",
            '{"step": 1, "train/return": {"a": 1}}\n',
            "step 1: train/return: expected a number",
        ),
    ],
)
def test_damaged_files_of_a_run_are_a_mistake_of_one_line(tmp_path, file, text, message):
    (tmp_path / "metrics.jsonl").write_text(GOOD)
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=message):
        report([tmp_path])
    assert not (tmp_path / "report.png").exists()


@pytest.mark.parametrize("name", ["x", "x.nope", "x.png.txt"])
def test_a_picture_has_the_ending_of_one(tmp_path, name):
    with pytest.raises(ConfigError, match=r"--out: expected a file that ends with .png"):
        report([run_dir(tmp_path / "a")], tmp_path / name)
