"""Weights & Biases as a sink. It is sent to where a config says so, and nowhere else.

The key comes from the environment (`WANDB_API_KEY`, or what `wandb login` stored), never from a config.
"""

import tempfile
import uuid
from pathlib import Path

from memjax.runs.places import absolute, is_remote, replace_file
from memjax.runs.sinks import RunInfo, Values, by_seed, means

ID_FILE = "wandb_id"  # in the workdir: which run of W&B a later launch continues


class WandB:
    """Logs the means over the seeds under their own names, and each seed's values under `seed_N/`."""

    def __init__(self, info: RunInfo, *, project: str, entity: str, mode: str, seeds: bool):
        """Begins a run of W&B, or continues that of the launch before.

        Args:
          info: of the run.
          project: of W&B, that the run is filed under.
          entity: user or team; "": the default one of the account.
          mode: "online", or "offline" to keep everything in the workdir until `wandb sync`.
          seeds: whether every seed's own values are sent as well.
        """
        import wandb  # type: ignore[import-not-found] - an extra, slow to import

        self._seeds, self._first_seed = seeds, info.first_seed
        self._run = wandb.init(
            project=project,
            entity=entity or None,
            id=_run_id(info.workdir / ID_FILE),
            name=absolute(info.workdir).name,
            dir=tempfile.gettempdir() if is_remote(info.workdir) else str(info.workdir),
            config=dict(info.config),
            mode=mode,
            resume="allow",
            save_code=False,
            settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_job_creation=True),
        )
        # A resumed run repeats the steps after its checkpoint; W&B has them already, and keeps those.
        self._next = int(self._run.step or 0)

    def write(self, step: int, values: Values) -> None:
        """One line of history; a step that W&B has from a launch before is left out."""
        if step < self._next:
            return
        found = dict(means(values))
        for seed, own in by_seed(values) if self._seeds else ():
            found |= {f"seed_{self._first_seed + seed}/{name}": value for name, value in own.items()}
        self._run.log(found, step=step)

    def close(self) -> None:
        """Ends this launch's part of the run and waits until it has been sent."""
        self._run.finish()


def _run_id(path: Path) -> str:
    """The id that an earlier launch has left, or a new one."""
    if not path.exists():
        replace_file(path, uuid.uuid4().hex[:12].encode())
    return path.read_text(encoding="utf-8").strip()
