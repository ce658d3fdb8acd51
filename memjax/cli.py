"""The `memjax` command: its words and its exit codes. What each command does is in `memjax.commands`.

A user's mistake ends with exit code 2 and one line. Other codes: 1 a failure outside (a full disk, an
endpoint that is down, a spent budget), 3 a value that is not finite, 130 and 143 a signal after which the run
was saved.
"""

from memjax.commands.interrupts import ending_at_once

with ending_at_once():
    import argparse
    import os
    import sys
    from collections.abc import Sequence
    from typing import Any

    from memjax import __version__
    from memjax.commands import argument_types, help_texts
    from memjax.commands.data_arguments import add_collect, add_demonstrate
    from memjax.commands.parser import (
        Parser,
        add_command,
        add_many_runs,
        add_processes,
        add_profiling,
        fail,
        without_traceback,
    )
    from memjax.commands.watch_arguments import add_watch

# Why no other import of memjax here: JAX takes a second to import, and `--help` should not wait for it.

Overrides = Sequence[tuple[str, str]]  # (field, text) of each --config.FIELD=VALUE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return _main(words)
    except KeyboardInterrupt:  # before or after what `without_traceback` runs
        if "--debug" in words:
            raise
        return fail("interrupted", 130)


def _main(argv: Sequence[str]) -> int:
    words, overrides, problem = _split_overrides(argv)
    if problem:
        return fail(problem, 2)
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return 2
    arguments = parser.parse_args(words)
    if overrides and not arguments.takes_fields:
        who = "only `memjax train`, `profile`, `sweep` and `remember` take config fields"
        return fail(f"--config.{overrides[0][0]}: {who}", 2)
    if arguments.debug:
        return arguments.run(arguments, overrides)
    return without_traceback(lambda: arguments.run(arguments, overrides))


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]], str]:
    """Takes `--config.FIELD=VALUE` and `--config.FIELD VALUE` out of `argv`: (rest, those, a complaint)."""
    words, overrides, rest = [], [], list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            words.append(word)
            continue
        field, equals, text = word.removeprefix("--config.").partition("=")
        if not equals and (not rest or rest[0].startswith("--")):
            return words, overrides, f"--config.{field}: expected --config.{field}=VALUE, got no value"
        overrides.append((field, text if equals else rest.pop(0)))
    return words, overrides, ""


def _train(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from memjax.commands.train import Cluster, run

    return run(
        arguments.config,
        overrides,
        arguments.workdir,
        imports=arguments.imports,
        resume=not arguments.no_resume,
        cache=not arguments.no_compilation_cache,
        cluster=Cluster(arguments.coordinator, arguments.num_processes, arguments.process_id),
    )


def _evaluate(arguments: argparse.Namespace, _: Overrides) -> int:
    from memjax.commands.evaluate import OtherBank, run

    policies = tuple(arguments.policies.split(",")) if arguments.policies else None
    bank = None
    if arguments.bank is not None:
        bank = OtherBank(arguments.bank, arguments.bank_episodes, arguments.bank_seed, arguments.swap_bank)
    imports, episodes = arguments.imports, arguments.episodes
    return run(arguments.workdir, imports=imports, episodes=episodes, policies=policies, bank=bank)


def _remember(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from memjax.commands.remember import run

    return run(
        arguments.config,
        overrides,
        arguments.workdir,
        imports=arguments.imports,
        only_similarities=arguments.similarities,
        cache=not arguments.no_compilation_cache,
    )


def _report(arguments: argparse.Namespace, _: Overrides) -> int:
    from memjax.commands.report import run

    return run(arguments.workdirs, arguments.out, imports=arguments.imports, seed_lines=arguments.seed_lines)


def _inspect(arguments: argparse.Namespace, _: Overrides) -> int:
    from memjax.commands.inspect import run

    return run(arguments.workdir, digest=arguments.digest, rows=arguments.rows)


def _quarantine(arguments: argparse.Namespace, _: Overrides) -> int:
    from memjax.commands.quarantine import run

    return run(arguments.workdir, arguments.rows, hide=not arguments.release, why=arguments.why)


def _configs(arguments: argparse.Namespace, _: Overrides) -> int:
    from memjax.commands.configs import run

    return run(arguments.name, imports=arguments.imports)


def _campaign(arguments: argparse.Namespace, _: Overrides) -> int:
    from memjax.commands.campaign import run

    names = ("workers", "steps", "hours", "dry_run", "only_tables")
    options = {name: getattr(arguments, name) for name in names}
    return run(arguments.file, arguments.workdir, **options)


def _sweep(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from memjax.commands.sweep import Request, run

    names = ("config", "over", "draws", "first_seed", "seeds", "score", "last", "keep_checkpoints", "imports")
    values = {name: getattr(arguments, name) for name in names}
    request = Request(**values, overrides=overrides, cache=not arguments.no_compilation_cache)
    return run(request, arguments.workdir, workers=arguments.workers, dry_run=arguments.dry_run)


def _profile(arguments: argparse.Namespace, overrides: Overrides) -> int:
    from memjax.commands.profile import run

    return run(
        arguments.config, overrides, imports=arguments.imports, out=arguments.out, chunks=arguments.chunks
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="memjax", description="External, retrievable memory for RL agents.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"memjax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _add_train(commands)
    _add_evaluate(commands)
    _add_report(commands)
    add_watch(commands)
    _add_inspect(commands)
    _add_quarantine(commands)
    _add_configs(commands)
    add_collect(commands)
    add_demonstrate(commands)
    _add_campaign(commands)
    _add_sweep(commands)
    _add_remember(commands)
    _add_profile(commands)
    parser.commands = commands.choices
    return parser


def _add_train(commands: Any) -> None:
    summary = "train an agent, or continue a run that was stopped"
    train = add_command(commands, "train", _train, summary, help_texts.TRAIN, workdirs="one")
    _add_config(train)
    train.add_argument("--no-resume", action="store_true", help="refuse a DIR that already has checkpoints")
    add_processes(train)


def _add_remember(commands: Any) -> None:
    summary = "run a language-model agent that learns what to remember"
    remember = add_command(commands, "remember", _remember, summary, help_texts.REMEMBER, workdirs="one")
    _add_config(remember)
    remember.add_argument(
        "--similarities", action="store_true", help="print how alike the tasks are, to choose a threshold"
    )


def _add_profile(commands: Any) -> None:
    summary = "show where the time of an iteration goes"
    profile = add_command(commands, "profile", _profile, summary, help_texts.PROFILE)
    _add_config(profile)
    add_profiling(profile)


def _add_config(command: Parser) -> None:
    command.set_defaults(takes_fields=True)
    help = "a shipped config, or the path of a config file"
    command.add_argument("--config", required=True, metavar="NAME[:VARIANT]", help=help)
    command.add_argument("--config.FIELD", dest="_", metavar="VALUE", help="set one field; may be repeated")
    help = "neither read nor keep compiled programs on disk"
    command.add_argument("--no-compilation-cache", action="store_true", help=help)


def _add_evaluate(commands: Any) -> None:
    summary = "run a trained agent without learning"
    evaluate = add_command(commands, "evaluate", _evaluate, summary, help_texts.EVALUATE, workdirs="one")
    add = evaluate.add_argument
    add(
        "--episodes",
        type=argument_types.positive,
        metavar="N",
        help="episodes of each seed (default: as in the config)",
    )
    add("--policies", metavar="NAME[,NAME]", help="which of the agent's policies (default: all)")
    add("--bank", type=os.path.expanduser, metavar="DATASET", help="experts to retrieve from")
    add(
        "--bank-episodes",
        type=argument_types.positive,
        default=60,
        metavar="N",
        help="how many of them (default: 60)",
    )
    add(
        "--bank-seed",
        type=argument_types.natural,
        default=0,
        metavar="S",
        help="seed of their choice (default: 0)",
    )
    help = "use them although the policy was trained with other experts"
    add("--swap-bank", action="store_true", help=help)


def _add_report(commands: Any) -> None:
    summary = "draw learning curves of one or several runs"
    report = add_command(commands, "report", _report, summary, help_texts.REPORT, workdirs="several")
    report.add_argument(
        "--out", type=argument_types.path, metavar="FILE.png", help="default: report.png in the first DIR"
    )
    report.add_argument("--seed-lines", action="store_true", help="draw a thin line for each seed, too")


def _add_inspect(commands: Any) -> None:
    summary = "show what a run's memories hold"
    inspect = add_command(commands, "inspect", _inspect, summary, help_texts.INSPECT, workdirs="one")
    help = "print a sha256 over the whole train state instead"
    inspect.add_argument("--digest", action="store_true", help=help)
    help = "of a language-model agent: print these memories whole"
    inspect.add_argument("--rows", type=argument_types.rows, default=[], metavar="ROW[,ROW]", help=help)


def _add_quarantine(commands: Any) -> None:
    summary = "hide memories of a language-model agent, and all that was built on them"
    text = help_texts.QUARANTINE
    quarantine = add_command(commands, "quarantine", _quarantine, summary, text, workdirs="one")
    add = quarantine.add_argument
    help = "rows of the memories, as `memjax inspect` shows them"
    add("--rows", type=argument_types.rows, required=True, metavar="ROW[,ROW]", help=help)
    add("--release", action="store_true", help="show them again")
    add("--why", default="", metavar="TEXT", help="kept with the decision")


def _add_configs(commands: Any) -> None:
    summary = "list the shipped configs, or the fields of one"
    configs = add_command(commands, "configs", _configs, summary, help_texts.CONFIGS)
    configs.add_argument("name", nargs="?", metavar="NAME[:VARIANT]", help="a config; without it, all names")


def _add_campaign(commands: Any) -> None:
    summary = "run a grid of configs and seeds, and make tables of it"
    campaign = add_command(commands, "campaign", _campaign, summary, help_texts.CAMPAIGN)
    campaign.add_argument("file", type=argument_types.path, metavar="FILE.toml", help="the campaign")
    add_many_runs(campaign)
    help = "environment steps of every run and seed, in place of those of the configs"
    campaign.add_argument("--steps", type=argument_types.amount, metavar="N", help=help)
    help = "save and end after so long; the same command goes on"
    campaign.add_argument("--hours", type=argument_types.hours, metavar="H", help=help)
    help = "make tables from DIR/results.csv as it is"
    campaign.add_argument("--only-tables", action="store_true", help=help)


def _add_sweep(commands: Any) -> None:
    summary = "train a config under several settings of its fields, and compare them"
    sweep = add_command(commands, "sweep", _sweep, summary, help_texts.SWEEP)
    _add_config(sweep)
    add_many_runs(sweep)
    add = sweep.add_argument
    over = {"action": "append", "required": True, "type": argument_types.over}
    add("--over", metavar="FIELD=VALUE,...", help="a field and its values; may be repeated", **over)
    help = "draw so many settings instead of taking all"
    add("--random", dest="draws", type=argument_types.positive, metavar="N", help=help)
    help = "seeds of each setting (default: 1)"
    add("--seeds", type=argument_types.positive, default=1, metavar="N", help=help)
    help = "the first of them (default: 0)"
    add("--first-seed", type=argument_types.natural, default=0, metavar="S", help=help)
    help = "what is compared: NAME is eval/POLICY/NAME, with a slash any metric (default: return)"
    add("--score", default="return", metavar="NAME", help=help)
    help = "the share of the run, its end, that a score is the mean of (default: 0.25)"
    add("--last", type=argument_types.share, default=0.25, metavar="SHARE", help=help)
    add("--keep-checkpoints", action="store_true", help="do not remove those of runs that ended")
