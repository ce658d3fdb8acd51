"""The reliability matrix: what is promised, what tries it, and what is not covered."""

from typing import NamedTuple


class Row(NamedTuple):
    """One row of the matrix."""

    promise: str
    tests: str  # files and functions below tests/, separated by spaces
    parts: tuple[str, ...]  # of the campaign
    gap: str  # what is not promised, or was not tried


ROWS = {
    "R1": Row(
        "a run killed at any moment and started again is the run that was never killed, bit for bit",
        "training/test_resume.py llm/run/test_llm_kill.py",
        ("kills adamemento", "kills reframe", "kills memrl", "clock adamemento", "clock memrl"),
        "envpool cannot save its environments, and the manifest says so; no kill on a GPU",
    ),
    "R2": Row(
        "a kill while saving leaves the checkpoint before; leftovers are removed",
        "runs/test_checkpoint.py::test_kill_at_every_call_to_the_file_system",
        ("kills adamemento", "kills reframe", "kills memrl"),
        "loss of power was not tried",
    ),
    "R3": Row(
        "SIGTERM and Ctrl-C save, with exit codes 143 and 130; the second one ends at once",
        "runs/test_signals.py",
        ("signals adamemento",),
        "",
    ),
    "R4": Row(
        "a full disk is one line and exit code 1, with the last checkpoint intact",
        "runs/test_checkpoint.py::"
        "test_a_file_system_that_takes_no_more_is_an_error_and_the_last_checkpoint_stays "
        "runs/test_sinks.py::test_a_disk_that_is_full_ends_the_events_and_nothing_waits "
        "llm/run/test_llm_loop.py::test_a_full_disk_ends_the_run_and_skips_no_task",
        ("full disks",),
        "quotas",
    ),
    "R5": Row(
        "damage to a file of a run is found before it is used; the checkpoint before is taken",
        "runs/test_checkpoint.py::test_an_injured_checkpoint_is_never_used_in_a_thousand_trials "
        "runs/test_lines.py llm/run/test_llm_log.py",
        ("flips",),
        "lines cut off the end of metrics.jsonl where no checkpoint counts on them",
    ),
    "R6": Row(
        "an error of a save in the background comes out at the next call",
        "runs/test_checkpoint.py::test_an_error_in_the_background_comes_out_at_the_next_call",
        (),
        "",
    ),
    "R7": Row(
        "a checkpoint restores on fewer devices",
        "runs/test_checkpoint.py::test_restores_onto_the_sharding_of_the_abstract_state "
        "training/test_mesh.py",
        (),
        "from a GPU to a CPU",
    ),
    "R8": Row(
        "many interruptions of one run change nothing",
        "training/test_resume.py::test_kills_in_a_row_end_in_the_same_bits",
        ("signals adamemento", "kills adamemento", "kills reframe", "kills memrl", "sweeps", "campaigns"),
        "",
    ),
    "R9": Row(
        "a checkpoint of another schema is refused with both versions named",
        "runs/test_checkpoint.py::test_another_schema_version_is_refused_by_name_of_both",
        (),
        "there is no earlier release to load from",
    ),
    "R10": Row(
        "a memory never holds more than its capacity, and evicts in the documented order",
        "memory/test_memory_contract.py memory/eviction/test_eviction.py",
        (),
        "",
    ),
    "R11": Row(
        "search equals a full sort in every corner case; what is not finite is refused and counted",
        "memory/search/test_edges.py memory/search/test_nearest.py memory/test_bad_input.py",
        (),
        "",
    ),
    "R12": Row(
        "learned utilities equal the sequential oracle, repeated slots included",
        "memory/test_utility.py",
        ("updates",),
        "",
    ),
    "R13": Row(
        "a value that is not finite stops the run with exit code 3 and keeps the last good checkpoint",
        "training/test_train.py::test_a_value_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint "
        "training/test_finite.py",
        ("values adamemento", "values reframe"),
        "the arrays of a language run's memory; what no metric shows is found at the next save, not at once",
    ),
    "R14": Row(
        "a damaged or hostile dataset is one line and exit code 2",
        "data/test_bad_datasets.py",
        ("datasets",),
        "",
    ),
    "R15": Row(
        "a config that cannot be right is one line and exit code 2, before anything is made",
        "test_schema.py test_config_file.py",
        ("configs",),
        "",
    ),
    "R16": Row(
        "no file that is loaded runs code or is written outside of its place",
        "data/test_bad_datasets.py::test_a_pickle_in_place_of_a_cached_array_is_refused "
        "data/test_bad_datasets.py::test_zip_is_no_dataset_whatever_it_holds",
        ("datasets",),
        "memjax unpacks no archives, so there are no trials of archives with paths that lead outside",
    ),
    "R17": Row(
        "no pickle, eval, exec, shell in the package",
        "test_imports.py::test_nothing_loads_code_or_calls_a_shell",
        (),
        "",
    ),
    "R18": Row(
        "an endpoint may fail in any way: bounded retries, no lost or doubled update, the budget holds",
        "llm/clients/test_llm_openai.py llm/clients/test_wire.py llm/clients/test_lookup.py "
        "llm/run/test_llm_loop.py",
        (),
        "",
    ),
    "R19": Row(
        "a key is in no file and no output, even where the endpoint repeats it",
        "llm/clients/test_llm_openai.py::test_a_key_that_comes_back_is_masked runs/test_workdir.py",
        ("canary",),
        "",
    ),
    "R20": Row(
        "a memory cannot leave its marks in a prompt, and of 200 poisoned beside 100 honest ones at most 5 % "
        "are followed where `recall` and `weight` leave the utilities room, none "
        "of a source below `least_trust`",
        "llm/run/test_poisoning.py llm/run/test_poisoned_agent.py",
        (),
        "the agent is simulated: whether a model follows a poisoned memory was not measured; with the "
        "preset's recall of 10, poison that outnumbers honest memories is followed for long",
    ),
    "R21": Row(
        "the same seed gives the same bits, on several simulated devices as on one",
        "training/test_mesh.py::test_several_devices_compute_what_one_does",
        ("kills adamemento", "kills reframe", "kills memrl"),
        "a GPU",
    ),
    "R22": Row(
        "no PRNG key is used twice, no rank promoted",
        "training/test_train.py::test_no_key_is_used_twice_and_no_rank_is_promoted",
        (),
        "training programs alone, not the whole suite",
    ),
    "R23": Row(
        "a run that cannot be repeated says so in its manifest; in envpool a seed plays the same episodes",
        "envs/test_envpool_adapter.py",
        ("probes",),
        "a run does not probe the environment that it is given",
    ),
    "R24": Row(
        "what has no room is refused before it is allocated, with the largest capacity that fits",
        "memory/test_plan.py training/test_device_room.py",
        (),
        "peaks on a GPU",
    ),
    "R25": Row(
        "a long run takes no more memory, file handles or compilations as it goes on",
        "",
        ("soak",),
        "hours; other systems than AdaMemento",
    ),
    "R26": Row(
        "an interruption costs the time to start again and the steps since the last save",
        "",
        ("interrupted",),
        "hours, and saves every 2 minutes",
    ),
    "R27": Row(
        "a second process in a workdir is refused in one line",
        "runs/test_workdir.py::test_a_second_process_is_refused_until_the_first_one_dies "
        "commands/test_campaign.py::test_a_run_that_a_killed_campaign_left_is_waited_for",
        ("races",),
        "",
    ),
    "R28": Row("", "", (), "macOS and Windows; CONTRIBUTING.md says which Pythons were tried on Linux"),
    "R29": Row(
        "without an optional package the rest works, and its name comes with the pip command",
        "envs/test_without_envpool.py data/test_extras.py",
        (),
        "",
    ),
    "R30": Row(
        "gradients through retrieval are finite and right, and stop at the memory",
        "agents/reframe/test_read.py memory/test_memory_contract.py::test_gradients_are_finite",
        (),
        "",
    ),
}

HEAD = """# Reliability

What memjax promises about runs that are killed, damaged or given nonsense, how each promise is tried, and
what is not covered. The campaign writes this page from `experiments/results/faults/results.json`: change
`experiments/fault_matrix.py`, not the page.

"""
HOW = """
## Run it

    python -m experiments.faults --kills 300 --signals 200 --flips 1000 --minutes 240   # the whole: hours
    python -m experiments.faults --only R5,R15 --flips 100                 # some rows
    python -m experiments.faults --only R25,R26 --soak 480 --anew          # eight hours of each long run
    python -m experiments.faults --write                                   # this page anew, from the results

It needs a checkout with the tests and `pip install 'memjax[dev,data,llm]'`. What was counted is kept: a
campaign that ended, or that `--minutes` cut off, goes on from there with the next trials, and `--anew` begins
again. `make test` does a few trials of each part (`tests/faults`), `make test-slow` more. Small disks need
the right to mount, in a user namespace at least; without it they are not tried.

Kills are SIGKILL to real processes of tiny runs: AdaMemento on Four Rooms, Re:Frame on a made dataset, a
language run whose model is scripted and lives in the process. Half of them wait until a checkpoint is being
written; "while saving" counts those that left an unfinished checkpoint behind. Up to four kills, or ten
signals, make a chain. A chain has to end with the digest of the state, the bytes of the metrics and, for
a language run, the rows of the log of the run that was never interrupted.

`memjax sweep` and `memjax campaign` of two tiny runs are killed, every other time together with the run
under way, and have to end with the rows and metrics of the one that nobody killed. A clock that goes back is
that of the process: what it asks the system for, such as the times of files, stays as it is. A long run is
looked at every second; the share of time that is kept depends on what else the machine does. An environment
is played twice from one seed and once from another, with the same random actions.

A flipped bit without effect lies where nothing reads: all that is read equals what was written. A silent one
would have changed what a run uses. Values that are not finite are put into one element of one array of a
train state in memory; what is found at once stops the run in the same iteration, and no checkpoint is saved
after that.
"""
