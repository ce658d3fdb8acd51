"""The `memjax` command: train, evaluate, remember, report, inspect, collect.

A user's mistake ends with exit code 2 and one line. Other codes: 1 a failure outside (a full disk, an
endpoint that is down, a spent budget), 3 a value that is not finite, 130 and 143 a signal after which the run
was saved.
"""

import argparse
import ast
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from memjax import __version__

# Why no other import of memjax here: JAX takes a second to import, and `--help` should not wait for it.

_TRAIN_HELP = """\
Trains the agent of a config file. Launch the same command again to continue where a run was stopped or
killed; a finished run is left as it is, and a larger --config.run.total_steps extends it.

examples:
  memjax train --config=experiments/configs/NAME.py --workdir=runs/first
  memjax train --config=experiments/configs/NAME.py:smoke --workdir=runs/smoke
  memjax train --config=experiments/configs/NAME.py --workdir=runs/lr --config.agent.lr=1e-3 --config.seed=7
  memjax train --config=memjax/configs/reframe.py:hopper --workdir=runs/offline \\
      --config.data.path=hopper_medium-v2.hdf5 --config.data.experts=hopper_expert-v2.hdf5
"""

_EVALUATE_HELP = """\
Evaluates the newest checkpoint of a run; nothing is learned or written. An offline run needs no dataset here:
with --bank, experts of another dataset take the place of those that it retrieves from.

examples:
  memjax evaluate --workdir=runs/first --episodes 100
  memjax evaluate --workdir=runs/reframe --bank hopper_expert.hdf5 --bank-episodes 15 --swap-bank
"""

_REMEMBER_HELP = """\
Plays a benchmark's tasks with a language model, epoch after epoch, and remembers how they ended; see
docs/memrl.md. Launch the same command again to continue where a run was stopped or killed; a finished run is
left as it is, and a larger --config.language.epochs extends it. The key of an endpoint comes from the
environment alone.

examples:
  memjax remember --config=memjax/configs/language.py:lifelong_db --workdir=runs/language/db
  memjax remember --config=memjax/configs/language.py:humaneval+rag+local --workdir=runs/language/rag
  memjax remember --config=memjax/configs/language.py:bigcodebench --workdir=runs/language/mine \\
      --config.chat.endpoint.base_url=http://127.0.0.1:8000/v1 --config.chat.endpoint.model=NAME
  memjax remember --config=memjax/configs/language.py:humaneval+local --workdir=runs/language/again \\
      --config.store.mode=replay
"""

_COLLECT_HELP = """\
Makes an offline dataset in D4RL's HDF5 layout: policies act in envpool, and every episode is kept whole. The
file appears when it is complete; with --steps it holds a little more than asked for, as no episode is cut.

A policy is `random`, an .npz file of a Gaussian network, or the directory of a run. Several make a mixture.

examples:
  memjax collect --env envpool/Hopper-v4 --policy random --steps 1000000 --out hopper_random.hdf5
  memjax collect --env envpool/Hopper-v4 --policy expert.npz --episodes 60 --mean --out hopper_expert.hdf5
  memjax collect --env envpool/Hopper-v4 --policy it00*.npz --steps 400000 --out hopper_medium_replay.hdf5
  memjax collect --env envpool/Hopper-v4 --policy runs/first random --shares 3 1 --steps 1e5 --out mixed.hdf5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words, overrides, problem = _split_overrides(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    if problem or (overrides and arguments.command not in ("train", "remember")):
        who = "only `memjax train` and `memjax remember` take config fields"
        return _fail(problem or f"--config.{overrides[0][0]}: {who}", 2)
    if arguments.debug:
        return arguments.run(arguments, overrides)
    return _without_traceback(lambda: arguments.run(arguments, overrides))


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


def _without_traceback(run: Callable[[], int]) -> int:
    """Mistakes and failures outside memjax as one line; a bug of memjax still shows its traceback."""
    from absl import logging

    from memjax.types import ConfigError, RunEnded

    logging.set_verbosity(logging.FATAL)  # Orbax logs the traceback of what it raises as well
    try:
        return run()
    except ConfigError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{type(error).__name__}: {error}", 1)
    except RunEnded as error:
        return _fail(str(error), error.exit_code)


def _train(arguments: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> int:
    from memjax.config_file import load_config
    from memjax.training.config import resolve

    config = resolve(load_config(arguments.config, overrides))
    if not arguments.no_compilation_cache:
        enable_compilation_cache()
    from memjax.training.train import train

    return train(config, arguments.workdir, resume=not arguments.no_resume) or 0


def _evaluate(arguments: argparse.Namespace, _) -> int:
    from memjax.commands.evaluate import OtherBank, evaluate_workdir

    policies = tuple(arguments.policies.split(",")) if arguments.policies else None
    bank = None
    if arguments.bank is not None:
        bank = OtherBank(arguments.bank, arguments.bank_episodes, arguments.bank_seed, arguments.swap_bank)
    results = evaluate_workdir(arguments.workdir, episodes=arguments.episodes, policies=policies, bank=bank)
    print(f"step {results['step']:,}")
    print(_table(results["policies"]))
    return 0


def _remember(arguments: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> int:
    from memjax.commands.remember import remember, resolve_language, similarities
    from memjax.config_file import load_config

    config = load_config(arguments.config, overrides)
    resolve_language(config)  # a mistake is said before anything is compiled or asked
    if arguments.similarities:
        found = similarities(config, arguments.workdir)
        print("  ".join(f"{name} {value:.3f}" for name, value in found.items()))
        return 0
    if not arguments.no_compilation_cache:
        enable_compilation_cache()
    return remember(config, arguments.workdir)


def _report(arguments: argparse.Namespace, _) -> int:
    from memjax.commands.report_language import is_language_run, language_report

    remembered = [is_language_run(workdir) for workdir in arguments.workdirs]
    if any(remembered) and not all(remembered):
        from memjax.types import ConfigError

        other = arguments.workdirs[remembered.index(False)]
        raise ConfigError("workdir", "runs of `memjax remember` alone, or none", f"'{other}' beside them")
    if all(remembered):
        print(f"wrote {language_report(arguments.workdirs, arguments.out)}")
        return 0
    from memjax.commands.report import report

    print(f"wrote {report(arguments.workdirs, arguments.out)}")
    from memjax.commands.maps import draw_map

    for workdir in arguments.workdirs:
        picture = draw_map(workdir)
        if picture is not None:
            print(f"wrote {picture}")
    return 0


def _inspect(arguments: argparse.Namespace, _) -> int:
    from memjax.commands import inspect

    if arguments.digest:
        step, digest = inspect.latest_digest(arguments.workdir)
        print(f"{digest}  step {step}")
        return 0
    step, leaves = inspect.latest_leaves(arguments.workdir)
    memories = inspect.find_memories(leaves)
    print(f"checkpoint of step {step:,}, {len(memories) or 'no'} memories")
    for memory in memories:
        print(inspect.describe_memory(memory))
    return 0


def _collect(arguments: argparse.Namespace, _) -> int:
    from memjax.commands.collect import Request, collect_dataset

    request = Request(
        env=arguments.env,
        policies=tuple(arguments.policy),
        out=arguments.out,
        steps=arguments.steps,
        episodes=arguments.episodes,
        shares=tuple(arguments.shares or ()),
        mean=arguments.mean,
        seed=arguments.seed,
        num_envs=arguments.num_envs,
        options=dict(arguments.option),
        next_observations=arguments.next_observations,
        compress=arguments.compress,
        overwrite=arguments.overwrite,
    )
    made = collect_dataset(request)
    for entry in made["policies"]:
        counts = f"{entry['episodes']:,} episodes, {entry['steps']:,} steps"
        print(f"{entry['policy']}: {counts}, return {entry['return']:.4g} +- {entry['return_std']:.3g}")
    rate = made["stepped"] / made["seconds"]
    print(f"wrote {made['steps']:,} steps to {arguments.out} ({rate:,.0f} environment steps/s)")
    return 0


def _table(results: Mapping[str, Any]) -> str:
    """One line per policy and one column per metric; the mean over seeds where there are several."""
    from memjax.runs.metrics import mean

    columns = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    width = max(len(policy) for policy in ["policy", *results])
    lines = ["  ".join(["policy".ljust(width), *(name.rjust(12) for name in columns)])]
    for policy, metrics in results.items():
        cells = [f"{mean(_plain(metrics[name])):.4g}" if name in metrics else "-" for name in columns]
        lines.append("  ".join([policy.ljust(width), *(cell.rjust(12) for cell in cells)]))
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def enable_compilation_cache() -> None:
    """Lets a later launch reuse what XLA compiled: minutes on the first start, seconds on the next."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "memjax" / "jax"))


class _Parser(argparse.ArgumentParser):
    """Says a mistake on one line instead of printing the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"memjax: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="memjax", description="External, retrievable memory for RL agents.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"memjax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    train = _command(
        commands, "train", _train, "train an agent, or continue a run that was stopped", _TRAIN_HELP
    )
    train.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="a config file")
    train.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="where the run lives")
    train.add_argument("--config.FIELD", dest="_", metavar="VALUE", help="sets one field, as often as needed")
    train.add_argument("--no-resume", action="store_true", help="refuse a DIR that already has checkpoints")
    train.add_argument("--no-compilation-cache", action="store_true", help="compile everything anew")

    evaluate = _command(
        commands, "evaluate", _evaluate, "run a trained agent without learning", _EVALUATE_HELP
    )
    evaluate.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="the directory of a run")
    evaluate.add_argument(
        "--episodes", type=_positive, metavar="N", help="per seed (default: as in the config)"
    )
    evaluate.add_argument("--policies", metavar="NAME[,NAME]", help="which of the agent's (default: all)")

    evaluate.add_argument("--bank", metavar="DATASET", help="experts to retrieve from, as data.experts")
    evaluate.add_argument(
        "--bank-episodes", type=_positive, default=60, metavar="N", help="taken of it (default: 60)"
    )
    evaluate.add_argument(
        "--bank-seed", type=_natural, default=0, metavar="S", help="which ones (default: 0)"
    )
    evaluate.add_argument(
        "--swap-bank", action="store_true", help="take them although the policy was trained with others"
    )

    remember = _command(
        commands,
        "remember",
        _remember,
        "run a language-model agent that learns what to remember",
        _REMEMBER_HELP,
    )
    remember.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="a config file")
    remember.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="where the run lives")
    remember.add_argument(
        "--config.FIELD", dest="_", metavar="VALUE", help="sets one field, as often as needed"
    )
    remember.add_argument("--no-compilation-cache", action="store_true", help="compile everything anew")
    remember.add_argument(
        "--similarities", action="store_true", help="print how alike the tasks are, to choose a threshold"
    )

    report = _command(commands, "report", _report, "draw learning curves of one or several runs")
    report.add_argument("workdirs", nargs="+", type=Path, metavar="DIR", help="the directory of a run")
    report.add_argument("--out", type=Path, metavar="FILE.png", help="default: report.png in the first DIR")

    inspect = _command(commands, "inspect", _inspect, "show what a run's memories hold")
    inspect.add_argument("workdir", type=Path, metavar="DIR", help="the directory of a run")
    inspect.add_argument(
        "--digest", action="store_true", help="print a sha256 over the whole train state instead"
    )

    collect = _command(commands, "collect", _collect, "make an offline dataset from policies", _COLLECT_HELP)
    collect.add_argument("--env", required=True, metavar="envpool/NAME", help="the environment")
    collect.add_argument(
        "--policy", required=True, nargs="+", action="extend", metavar="POLICY", help="what acts in it"
    )
    collect.add_argument(
        "--shares", nargs="+", type=float, metavar="W", help="of each policy (default: equal)"
    )
    collect.add_argument("--out", required=True, type=Path, metavar="FILE.hdf5", help="the dataset")
    amount = collect.add_mutually_exclusive_group(required=True)
    amount.add_argument("--steps", type=_amount, metavar="N", help="at least so many, in whole episodes")
    amount.add_argument("--episodes", type=_amount, metavar="E", help="exactly so many")
    noise = collect.add_mutually_exclusive_group()
    noise.add_argument("--sampled", dest="mean", action="store_false", help="sample actions (the default)")
    noise.add_argument("--mean", action="store_true", help="act without noise")
    collect.set_defaults(mean=False)
    collect.add_argument("--seed", type=_natural, default=0, metavar="S", help="default: 0")
    collect.add_argument(
        "--num-envs", type=_positive, default=64, metavar="B", help="stepped together (default: 64)"
    )
    collect.add_argument(
        "--option", type=_option, action="append", default=[], metavar="NAME=VALUE", help="of the environment"
    )
    collect.add_argument("--next-observations", action="store_true", help="store next_observations as well")
    collect.add_argument("--compress", action="store_true", help="a smaller file that takes longer to read")
    collect.add_argument("--overwrite", action="store_true", help="replace FILE.hdf5 if it exists")
    return parser


def _command(commands: Any, name: str, run: Callable[..., int], summary: str, text: str = "") -> _Parser:
    description = text or f"{summary[0].upper()}{summary[1:]}."
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run)
    return command


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected int >= 1, got '{text}'")
    return int(text)


def _amount(text: str) -> int:
    """Also 1e6 and 1_000_000."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < 2**53 or not number.is_integer():
        raise argparse.ArgumentTypeError(f"expected int >= 1, got '{text}'")
    return int(number)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected int >= 0, got '{text}'")
    return int(text)


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, a Python literal where it is one, text otherwise."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got '{text}'")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _fail(message: str, code: int) -> int:
    print(f"memjax: error: {' '.join(message.split())}", file=sys.stderr)
    return code
