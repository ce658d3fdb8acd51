"""A reward of your own, for `--import=examples/own_reward.py` and `benchmark.options.reward=lines`."""

from memjax.llm.tasks.own import OwnTask


def lines(task: OwnTask, reply: str) -> float:
    """1 where the reply has as many lines as the task asks for, less the further away it is."""
    written = len([line for line in reply.splitlines() if line.strip()])
    return 1.0 / (1.0 + abs(written - task.row["lines"]))
