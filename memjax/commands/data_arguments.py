"""The words of `memjax collect` and `memjax demonstrate`. Imports nothing that takes long."""

import argparse
import os
from typing import Any

from memjax.commands import argument_types, help_texts
from memjax.commands.parser import add_command


def add_collect(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "make an offline dataset from policies"
    collect = add_command(commands, "collect", _collect, summary, help_texts.COLLECT)
    add = collect.add_argument
    add("--env", required=True, metavar="envpool/NAME", help="the environment")
    help = "what acts in the environment"
    policy = {"nargs": "+", "action": "extend", "type": os.path.expanduser}
    add("--policy", required=True, metavar="POLICY", help=help, **policy)
    add("--shares", nargs="+", type=float, metavar="W", help="weight of each policy (default: equal)")
    add("--out", required=True, type=argument_types.path, metavar="FILE.hdf5", help="the dataset to make")
    amount = collect.add_mutually_exclusive_group(required=True)
    amount.add_argument(
        "--steps", type=argument_types.amount, metavar="N", help="at least so many, in whole episodes"
    )
    amount.add_argument("--episodes", type=argument_types.amount, metavar="E", help="exactly so many")
    noise = collect.add_mutually_exclusive_group()
    noise.add_argument("--sampled", dest="mean", action="store_false", help="sample actions (the default)")
    noise.add_argument("--mean", action="store_true", help="act without noise")
    collect.set_defaults(mean=False)
    add("--seed", type=argument_types.natural, default=0, metavar="S", help="default: 0")
    help = "environments at a time (default: 64)"
    add("--num-envs", type=argument_types.positive, default=64, metavar="B", help=help)
    help = "an option of the environment; may be repeated"
    add("--option", type=argument_types.option, action="append", default=[], metavar="NAME=VALUE", help=help)
    add("--next-observations", action="store_true", help="store next_observations as well")
    add("--compress", action="store_true", help="make a smaller file that takes longer to read")
    add("--overwrite", action="store_true", help="replace FILE.hdf5 if it exists")


def add_demonstrate(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "write demonstrations that fill a success memory"
    text = help_texts.DEMONSTRATE
    demonstrate = add_command(commands, "demonstrate", _demonstrate, summary, text)
    add = demonstrate.add_argument
    add("source", type=argument_types.path, metavar="SOURCE", help="the directory of a run, or a dataset")
    add("--episodes", type=argument_types.positive, required=True, metavar="N", help="how many")
    add("--out", type=argument_types.path, required=True, metavar="FILE.npz", help="the file to write")
    add("--policy", metavar="NAME", help="which of the agent's policies (default: the main one)")
    help = "take episodes alone that earn so much (default: any)"
    add("--least-return", type=float, default=float("-inf"), metavar="R", help=help)
    add("--seed", type=argument_types.natural, default=0, metavar="S", help="of what is played (default: 0)")
    add("--overwrite", action="store_true", help="replace FILE.npz if it exists")


def _collect(arguments: argparse.Namespace, _: Any) -> int:
    from memjax.commands.collect import Request, run

    names = ("env", "out", "steps", "episodes", "mean", "seed", "num_envs")
    values = {name: getattr(arguments, name) for name in names}
    values |= {"policies": tuple(arguments.policy), "shares": tuple(arguments.shares or ())}
    switches = ("next_observations", "compress", "overwrite")
    values |= {name: getattr(arguments, name) for name in switches} | {"options": dict(arguments.option)}
    request = Request(**values)
    return run(request, imports=arguments.imports)


def _demonstrate(arguments: argparse.Namespace, _: Any) -> int:
    from memjax.commands.demonstrate import Request, run

    names = ("source", "out", "episodes", "policy", "least_return", "seed", "overwrite")
    request = Request(**{name: getattr(arguments, name) for name in names})
    return run(request, imports=arguments.imports)
