"""Log of scalars over steps, to `metrics.jsonl` and TensorBoard."""

import json
from pathlib import Path
from typing import Self

from tensorboardX import SummaryWriter

from vdu_jax.runtime import artifacts, processes


class ScalarWriter:
    """Writer of metrics.jsonl, lines of {"step": s, name: value, …}, and of TensorBoard events.

    Only the leader writes. It is a context manager that closes the files.
    """

    def __init__(self, directory: Path, resume_step: int = 0) -> None:
        """Open the files in a folder.

        Args:
          directory: the folder.
          resume_step: step from which the run resumes. Lines of later steps, which will be run
            again, are deleted, and TensorBoard is told to drop them.
        """
        path = Path(directory) / "metrics.jsonl"
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    break  # a line that was cut off when the run was killed
        artifacts.write_text(path, "".join(kept))
        self._writes = processes.is_leader()
        if not self._writes:
            return
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._events = SummaryWriter(
            str(Path(directory) / "events"), purge_step=resume_step + 1, flush_secs=30
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the scalars of a step.

        Args:
          step: number of the step.
          values: scalars by name.
        """
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
        """Close the files."""
        if not self._writes:
            return
        self._file.close()
        self._events.close()
