"""The words of `memjax watch`. Imports nothing that takes long, so that help appears at once."""

import argparse
from collections.abc import Sequence
from typing import Any

from memjax.commands import argument_types, help_texts
from memjax.commands.parser import add_command


def add_watch(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "film a trained agent, and what its memory does"
    watch = add_command(commands, "watch", _watch, summary, help_texts.WATCH, workdirs="one")
    add, positive, natural = watch.add_argument, argument_types.positive, argument_types.natural
    help = "default: watch.gif in DIR; for .mp4: pip install 'memjax[video]'"
    add("--out", type=argument_types.path, metavar="FILE.gif", help=help)
    add("--episodes", type=positive, default=1, metavar="N", help="how many (default: 1)")
    help = "of an episode at most; longer ones are cut (default: 500)"
    add("--steps", type=positive, default=500, metavar="N", help=help)
    add(
        "--draw",
        type=natural,
        default=0,
        metavar="S",
        help="another number draws other episodes (default: 0)",
    )
    add(
        "--seed",
        type=natural,
        metavar="S",
        help="which of the seeds trained side by side (default: the first)",
    )
    add("--policy", metavar="NAME", help="one of the agent's policies (default: its main one)")
    add("--checkpoint", type=natural, metavar="STEP", help="the step of a checkpoint (default: the newest)")
    help = "frames a second (default: what suits the environment, 6 to 30)"
    add("--fps", type=argument_types.rate, metavar="F", help=help)
    help = "show every N-th step alone, for a shorter film and a smaller file (default: 1)"
    add("--every", type=positive, default=1, metavar="N", help=help)


def _watch(arguments: argparse.Namespace, _: Sequence[tuple[str, str]]) -> int:
    from memjax.commands.watch import Request, run

    request = Request(
        out=arguments.out,
        episodes=arguments.episodes,
        most_steps=arguments.steps,
        draw=arguments.draw,
        seed=arguments.seed,
        policy=arguments.policy,
        checkpoint=arguments.checkpoint,
        rate=arguments.fps,
        stride=arguments.every,
    )
    return run(arguments.workdir, request, imports=arguments.imports)
