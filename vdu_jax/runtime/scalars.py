"""Scalars over steps: `metrics.jsonl` and TensorBoard events in one call."""

import json
from pathlib import Path
from typing import Self

from tensorboardX import SummaryWriter

from vdu_jax.runtime import artifacts, processes


class ScalarWriter:
    """Writes {"step": s, name: value, …} lines and TensorBoard events into a folder.

    On a resumed run pass the step it resumes from: later lines of the interrupted run, whose
    steps will be run again, are dropped (TensorBoard is told to drop them too).
    """

    def __init__(self, directory: Path, resume_step: int = 0) -> None:
        path = Path(directory) / "metrics.jsonl"
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    break  # the line that was being written when the run died
        artifacts.write_text(path, "".join(kept))
        self._writes = processes.is_leader()
        if not self._writes:
            return
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._events = SummaryWriter(
            str(Path(directory) / "events"), purge_step=resume_step + 1, flush_secs=30
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        self._file.write(artifacts.dumps({"step": step} | values, indent=None) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if not self._writes:
            return
        self._file.close()
        self._events.close()
