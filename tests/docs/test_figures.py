"""Figures that documents show, against the result files that they come from.

Where results were made anew, the text is what has to follow.
"""

import csv
import statistics

import pytest
from doc_blocks import ROOT

RESULTS = ROOT / "experiments" / "results"
if not (ROOT / "docs" / "results.md").is_file() or not RESULTS.is_dir():
    pytest.skip("no documents beside the tests", allow_module_level=True)


def rows(name):
    with open(RESULTS / name, newline="") as file:
        return list(csv.DictReader(file))


def numbers(name, column, **wanted):
    """A column of the rows in which other columns have these values."""
    chosen = [row for row in rows(name) if all(row[field] == value for field, value in wanted.items())]
    assert chosen, (name, wanted)
    return [float(row[column].replace("never", "inf")) for row in chosen]


def solved(variant):
    reached = numbers("four_rooms/summary.csv", "steps to 90 % success", variant=variant)
    return f"{sum(steps < float('inf') for steps in reached)} of {len(reached)}"


def cell(study, variant, column):
    """What the generated table of a study has for a variant."""
    lines = (RESULTS / study / "README.md").read_text(encoding="utf-8").splitlines()
    (head,) = (line.split("|") for line in lines if line.startswith("| variant |"))
    (row,) = (line.split("|") for line in lines if line.startswith(f"| {variant} |"))
    return row[[name.strip() for name in head].index(column)].strip()


def falls(variant):
    return cell("cliff_walking", variant, "falls per 1,000 episodes")


def short(variant):
    """The number without its interval, and without a decimal that is zero."""
    text = falls(variant).split()[0]
    return f"{float(text):.1f}" if "." in text else text


def stream(method):
    found = numbers("memrl_stream/success.csv", "last_epoch", stream="contradictory", method=method)
    return f"{statistics.mean(found):.2f}"


def regret(method):
    return (
        f"{statistics.mean(numbers('memrl_simulator/regret.csv', 'regret', world='main', method=method)):.3f}"
    )


def row(variant):
    columns = ("steps to 90 % success", "final success")
    return " | ".join([solved(variant), *(cell("four_rooms", variant, column) for column in columns)])


COMPUTED = {
    "docs/results.md": [
        *(f"| {name} | {row(variant)} |" for name, variant in {
            "AdaMemento": "adamemento", "the same without its memory": "no_memory", "PPO+RND": "rnd",
            "PPO+SIL": "sil", "PPO": "ppo"}.items()),
        *(f"| {name} | {falls(variant)} |" for name, variant in {
            "AdaMemento": "adamemento", "without the failure memory": "no_failures", "PPO": "ppo",
            "gate always open": "no_gate", "without any memory": "no_memory", "PPO+RND": "rnd"}.items()),
        f"{regret('MemRL')} ± ", f"utility alone {regret('utility only')} ± ",
        f"similarity alone {regret('similarity only')} ± ", f"random {regret('random')} ± ",
        f"success {stream('MemRL')} ± ", f"{stream('RAG (similarity only)')} ± 0.12 with similarity alone",
        f"{stream('no memory')} ± 0.06 without a memory",
        f"{stream('utility only')} ± 0.08 with utility alone",
    ],
    "README.md": [
        f"| {solved('adamemento')} | without memory {solved('no_memory').split()[0]}, "
        f"PPO+RND {solved('rnd').split()[0]}, PPO {solved('ppo').split()[0]} |",
        f"| {short('adamemento')} | without failure memory {short('no_failures')}, "
        f"without memory {short('no_memory')}, PPO {short('ppo')} |",
        f"| {stream('MemRL')} ± 0.07 | similarity alone {stream('RAG (similarity only)')} ± 0.12, "
        f"no memory {stream('no memory')} ± 0.06, utility alone {stream('utility only')} ± 0.08 |",
    ],
}  # fmt: skip

# What the documents repeat of a table that a command wrote: documents, their words, file, its words.
REPEATED = [
    (("README.md", "docs/results.md", "docs/concepts.md"), "+58.9 ± 10.0", "reads/tables.md", "+58.9 ± 10.0"),
    (("README.md", "docs/results.md", "docs/concepts.md"), "+12.6 ± 4.8", "reads/tables.md", "+12.6 ± 4.8"),
    (("README.md", "docs/results.md"), "+60.2 ± 11.6", "reads/tables.md", "+60.2 ± 11.6"),
    (("README.md", "docs/results.md"), "+83.8 ± 7.1", "reads/tables.md", "+83.8 ± 7.1"),
    (("docs/reframe.md",), "+66.7 ± 18.1", "reads_default/tables.md", "+66.7 ± 18.1"),
    (("docs/reframe.md",), "+44.9 ± 34.9", "reads_default/tables.md", "+44.9 ± 34.9"),
    (("docs/reframe.md",), "+13.3 ± 10.6", "reads_default/tables.md", "+13.3 ± 10.6"),
    (
        ("README.md", "docs/results.md", "docs/reframe.md"),
        "+32.3 ± 8.1",
        "reads_default/tables.md",
        "+32.3 ± 8.1",
    ),
    (
        ("README.md", "docs/results.md", "docs/reframe.md"),
        "+59.2 ± 3.7",
        "reads_default/tables.md",
        "| 24 | +59.2 ± 3.7 | -0.7 |",
    ),
    (
        ("README.md", "docs/results.md", "docs/reframe.md"),
        "-0.2 ± 1.4",
        "reads_default/tables.md",
        "| the better of both | 24 | -0.2 ± 1.4 |",
    ),
    (("docs/reframe.md",), "46.6 ± 5.8", "reads_default/tables.md", "| 24 | +46.6 ± 5.8 | -1.0 |"),
    (
        ("docs/reframe.md",),
        "1.1 ± 1.0",
        "reads_default/tables.md",
        "| the better of both | 24 | -1.1 ± 1.0 |",
    ),
    (("docs/results.md", "docs/concepts.md"), "-0.1 ± 0.5", "reframe/tables.md", "-0.1 ± 0.5"),
    (
        ("docs/published_scores.md",),
        "19.9 ± 2.3",
        "reframe/tables.md",
        "| Decision Transformer | 19.9 ± 2.3 |",
    ),
    (
        ("docs/published_scores.md",),
        "26.5 ± 2.4",
        "reframe/tables.md",
        "| Decision Transformer | 26.5 ± 2.4 |",
    ),
    (("docs/adamemento.md",), "0.39 [0.31, 0.44]", "switches/tables.md", "0.39 [0.31, 0.44]"),
    (("docs/adamemento.md",), "0.59 [0.43, 0.84]", "switches/tables.md", "0.59 [0.43, 0.84]"),
    (("README.md",), "0.85 [0.75, 0.92]", "suite/tables.md", "| AdaMemento | 0.85 [0.75, 0.92] | - |"),
    (
        ("README.md", "docs/concepts.md"),
        "0.80",
        "suite/tables.md",
        "| CartPole | 0.80 [0.74, 0.86] | 0.82 [0.63, 0.93] | 0.67 [0.57, 0.81] |",
    ),
    (
        ("README.md", "docs/concepts.md"),
        "PPO 0.67",
        "suite/tables.md",
        "| CartPole | 0.80 [0.74, 0.86] | 0.82 [0.63, 0.93] | 0.67 [0.57, 0.81] |",
    ),
    (
        ("docs/adamemento.md",),
        "| 0.62 [0.54, 0.70] | 0.56 [0.50, 0.63] | 0.55 [0.51, 0.58] | 0.42 [0.30, 0.54] |",
        "suite/tables.md",
        "stays | 0.62 [0.54, 0.70] | 0.56 [0.50, 0.63] | 0.55 [0.51, 0.58] | 0.42 [0.30, 0.54] |",
    ),
    (
        ("docs/adamemento.md",),
        "| 0.63 [0.55, 0.72] | 0.57 [0.51, 0.63] | 0.55 [0.51, 0.60] | 0.49 [0.36, 0.62] |",
        "suite/tables.md",
        "| without memory | 0.63 [0.55, 0.72] | 0.57 [0.51, 0.63] | 0.55 [0.51, 0.60] | 0.49 [0.36, 0.62] |",
    ),
    (
        ("docs/adamemento.md",),
        "| 0.53 [0.43, 0.62] | 0.64 [0.59, 0.70] | 0.34 [0.31, 0.37] | 0.62",
        "suite/tables.md",
        "| gate by confidence | 0.53 [0.43, 0.62] | 0.64 [0.59, 0.70] | 0.34 [0.31, 0.37] | 0.62",
    ),
    (
        ("docs/adamemento.md",),
        "| 0.47 [0.35, 0.59] | 0.56 [0.48, 0.63] | 0.51 [0.46, 0.56] | 0.47 [0.34, 0.59] |",
        "suite/tables.md",
        "| PPO | 0.47 [0.35, 0.59] | 0.56 [0.48, 0.63] | 0.51 [0.46, 0.56] | 0.47 [0.34, 0.59] |",
    ),
    (
        ("docs/adamemento.md",),
        "| 0.58 [0.46, 0.68] | 0.56 [0.49, 0.63] | 0.54 [0.51, 0.58] | 0.51 [0.38, 0.63] |",
        "suite/tables.md",
        "| PPO+RND | 0.58 [0.46, 0.68] | 0.56 [0.49, 0.63] | 0.54 [0.51, 0.58] | 0.51 [0.38, 0.63] |",
    ),
    (
        ("docs/adamemento.md",),
        "| 0.52 [0.41, 0.64] | 0.57 [0.50, 0.64] | 0.52 [0.49, 0.55] | 0.76 [0.69, 0.82] |",
        "suite/tables.md",
        "| PPO+SIL | 0.52 [0.41, 0.64] | 0.57 [0.50, 0.64] | 0.52 [0.49, 0.55] | 0.76 [0.69, 0.82] |",
    ),
    (
        ("docs/adamemento.md",),
        "| AdaMemento | 0.85 [0.75, 0.92] | | 0.55 [0.52, 0.58] | |",
        "suite/tables.md",
        "| AdaMemento | 0.85 [0.75, 0.92] | - | 0.55 [0.52, 0.58] | - |",
    ),
    (
        ("docs/adamemento.md",),
        "| 0.79 [0.70, 0.88] | 0.53 [0.47, 0.60] | 0.52 [0.48, 0.56] | 0.48 [0.36, 0.60] |",
        "suite/tables.md",
        "| memory acts | 0.79 [0.70, 0.88] | 0.53 [0.47, 0.60] | 0.52 [0.48, 0.56] | 0.48 [0.36, 0.60] |",
    ),
    (
        ("docs/adamemento.md",),
        "| 0.34 [0.08, 0.66] |",
        "parts/tables.md",
        "| CartPole | 0.34 [0.08, 0.66] | 0.59 [0.31, 0.86] |",
    ),
    (
        ("docs/adamemento.md",),
        "0.82 [0.67, 0.96]",
        "bonus_parts/tables.md",
        "| with imitation | 0.81 [0.78, 0.82] | 0.82 [0.67, 0.96] |",
    ),
    (
        ("docs/adamemento.md",),
        "bonus stays, has\n  0.02, and",
        "suite/tables.md",
        "| 0.97 [0.77, 0.99] | 0.76 [0.34, 0.94] | 0.02 [0.01, 0.06] |",
    ),
    (
        ("docs/adamemento.md",),
        "P 0.54 [0.41, 0.66]",
        "dense_tasks/tables.md",
        "| PPO | 0.43 [0.40, 0.47] | 0.54 [0.41, 0.66] |",
    ),
    (("docs/adamemento.md",), "0.51 [0.42, 0.79]", "mujoco/campaign/tables.md", "0.51 [0.42, 0.79]"),
    (
        ("docs/adamemento.md", "experiments/results/README.md"),
        "0.48 [0.41, 0.55]",
        "dense_seeds/thirty/tables.md",
        "| PPO | 0.54 [0.52, 0.57] | 0.48 [0.41, 0.55] |",
    ),
    (
        ("docs/adamemento.md", "experiments/results/README.md"),
        "0.32 [0.09, 0.44]",
        "sparse_cheetah/tables.md",
        "| PPO | 0.32 [0.09, 0.44] | 0.20 [0.00, 0.60] |",
    ),
    (("docs/adamemento.md",), "0.44 [0.35, 0.55]", "bonus_trials/tables.md", "0.44 [0.35, 0.55]"),
    (
        ("docs/adamemento.md",),
        "AdaMemento 0.07 [-0.36, 0.43], PPO -0.18 [-0.46, 0.24]",
        "continuous_car/tables.md",
        "| AdaMemento | 0.07 [-0.36, 0.43] | - |",
    ),
    (("docs/adamemento.md",), "0.78 [0.72, 0.81]", "door_key/tables.md", "| 0.78 [0.72, 0.81] | - |"),
    (
        ("docs/adamemento.md",),
        "0.83 [0.77, 0.83]",
        "door_key/tables.md",
        "0.83 [0.77, 0.83] | 0.12 [0.00, 0.40]",
    ),
    (
        ("docs/adamemento.md",),
        "0.14 [0.07, 0.28]",
        "door_key/tables.md",
        "| 0.14 [0.07, 0.28] | 1.00 [1.00, 1.00] |",
    ),
    (
        ("docs/adamemento.md",),
        "0.87 [0.81, 0.91]",
        "imitation/tables.md",
        "| with imitation, bonus stays | 0.87 [0.81, 0.91] |",
    ),
    (("docs/concepts.md",), "PPO 0.01", "door_key/tables.md", "| PPO | 0.01 [0.00, 0.17] |"),
    (
        ("README.md",),
        "| 60 % | RAG",
        "language_stream/tables.md",
        "| MemRL, imported | 2 | 58.7 | 53.6 | 60.2 |",
    ),
    (("docs/concepts.md",), "+8.2 to +17.8", "partial_experts/README.md", "+8.2 ± 3.8"),
    (("docs/concepts.md",), "+10.2 to +26.2", "partial_experts/README.md", "+26.2 ± 5.9"),
    (("docs/concepts.md",), "91.2 %", "spoiled_memories/README.md", "91.2 %"),
    (("docs/results.md", "docs/concepts.md"), "1,438", "mujoco/README.md", "| 1,438 |"),
    (("docs/results.md", "docs/concepts.md"), "4,194", "mujoco/README.md", "| 4,194 |"),
]


@pytest.mark.parametrize(
    ("document", "shown"), [(d, text) for d, texts in COMPUTED.items() for text in texts]
)
def test_a_figure_is_what_the_runs_gave(document, shown):
    assert shown in (ROOT / document).read_text(encoding="utf-8")


@pytest.mark.parametrize(("documents", "shown", "file", "there"), REPEATED)
def test_a_figure_stands_in_the_table_that_it_is_from(documents, shown, file, there):
    assert there in (RESULTS / file).read_text(encoding="utf-8"), f"{file} is new: {documents} must follow"
    for document in documents:
        assert shown in (ROOT / document).read_text(encoding="utf-8"), document
