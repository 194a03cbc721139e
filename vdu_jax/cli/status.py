"""`vdu status`: what a workdir holds, read from its files alone.

`read` gathers the facts of a run's workdir, `read_benchmark` those of a benchmark's; `show` and
`show_benchmark` print them. Nothing is written or locked, and JAX is not imported. The workdir does
not record its config file, so what that file says now is not compared: `vdu run` does, and names
the first setting that differs.
"""

import dataclasses
import json
import os
import platform
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vdu_jax.config import ORIGINAL
from vdu_jax.errors import UserError, shown
from vdu_jax.runtime import terminal

PER_MODEL = ("unlearn", "samples", "evaluate", "relearn")  # stages with a folder for each model
STAGES = (
    "import", "train", "posterior", "replay", "unlearn", "samples", "classifier", "evaluate",
    "relearn", "report",
)  # fmt: skip
OPTIONAL = ("import", "classifier", "relearn")  # not every run has them
# Settings that tell runs apart at a glance.
SETTINGS = (
    "train.steps", "train.batch_size", "train.learning_rate", "diffusion.num_steps",
    "diffusion.prediction", "sampler.name", "sampler.steps", "replay.images", "curve.images",
    "evaluate.images",
)  # fmt: skip
STYLES = {"done": "done", "damaged": "error", "outdated": "warning", "missing": "skipped"}


@dataclasses.dataclass(frozen=True)
class Part:
    """What there is of a stage, or of a stage for one model.

    Attributes:
      name: its folder in the workdir, e.g. "train" or "unlearn/plain".
      state: "done", "begun", "missing", "not needed"; "outdated" if it was made from another
        upstream stage than the one that is there; "damaged" if a file of it is.
      why: what is outdated or damaged, and what to do; "" otherwise.
      step: the newest step whose state is saved whole, of a fit that has begun; else None.
      steps: how many steps the fit has; None where there is none or nothing says so.
      seconds: how long the process took that finished it; None before.
    """

    name: str
    state: str
    why: str = ""
    step: int | None = None
    steps: int | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that has a lock, or had one on another machine.

    Attributes:
      pid: its process ID.
      host: its machine.
      since: when it took the lock.
      at: what it works at: "" for the whole workdir, else a part of a benchmark.
      alive: whether it still has the lock; None if that can be seen on its own machine only.
    """

    pid: int
    host: str
    since: str
    at: str
    alive: bool | None


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a workdir is of. None where no finished or begun stage records it.

    Attributes:
      task: "unconditional", "class_conditional" or "text_to_image".
      data: `data.name`.
      network: `model.name`.
      forget: the section `forget`.
      class_names: of the data set, in the order of its classes; empty if not recorded.
      settings: those of `SETTINGS` that are recorded.
    """

    task: str | None
    data: str | None
    network: str | None
    forget: dict[str, Any]
    class_names: list[str]
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Status:
    """The facts of a run's workdir.

    Attributes:
      workdir: as it was given.
      contents: what the run is of.
      stages: stage folder -> its parts, in the order of the stages.
      methods: unlearned method -> "objective", "kept_step", and "steps" that were made.
      figures: evaluated model -> "pul" and "u_fid".
      holders: processes at work.
      bytes: disk space used.
      next: the next command, or None if there is nothing left to do or a process is at it.
    """

    workdir: str
    contents: Contents
    stages: dict[str, list[Part]]
    methods: dict[str, dict[str, Any]]
    figures: dict[str, dict[str, float | None]]
    holders: list[Holder]
    bytes: int
    next: str | None


@dataclasses.dataclass(frozen=True)
class BenchmarkStatus:
    """The facts of a benchmark's workdir.

    Attributes:
      workdir: as it was given.
      contents: what its runs are of; its `forget` has the "classes" or "targets" of all cells.
      models: the folders with a model that is trained for the cells.
      tuned: method that has a grid -> whether its settings are chosen.
      cells: method -> seed -> [cells done, cells in all].
      planned: whether the workdir records all cells of the config; if not, the numbers are of those
        that have begun.
      figures: method -> "pul" and "u_fid", means over its cells, of finished comparisons.
      holders: processes at work.
      bytes: disk space used.
      next: the next command, or None if there is nothing left to do or a process is at it.
    """

    workdir: str
    contents: Contents
    models: list[Part]
    tuned: dict[str, bool]
    cells: dict[str, dict[int, list[int]]]
    planned: bool
    figures: dict[str, dict[str, float | None]]
    holders: list[Holder]
    bytes: int
    next: str | None


def run(workdir: Path, as_json: bool) -> None:
    """Print the status of a workdir.

    Raises:
      UserError: if the folder is none.
    """
    if is_benchmark(workdir):
        compared = read_benchmark(workdir)
        print_json("benchmark", compared) if as_json else show_benchmark(compared)
    else:
        status = read(workdir)
        print_json("run", status) if as_json else show(status)


# Facts


class Damaged(Exception):
    """A file that cannot be read."""


def _load(path: Path) -> dict[str, Any] | None:
    """A JSON object of ours; None if the file is missing.

    Raises:
      Damaged: if it is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Damaged(f"{path} is no JSON object")
    return value


def _try_load(path: Path) -> dict[str, Any]:
    """The same, empty if it is missing or damaged."""
    try:
        return _load(path) or {}
    except Damaged:
        return {}


def is_run(folder: Path) -> bool:
    """Whether a folder is the workdir of a run: a stage or a command has begun there."""
    stages = (folder / stage for stage in STAGES)
    begun = (path for stage in stages for path in (stage, *_folders(stage)))
    return "pid" in _try_load(folder / ".lock") or any(map(_is_begun, begun))


def is_benchmark(folder: Path) -> bool:
    """Whether a folder is the workdir of a benchmark."""
    if _planned_cells(folder) is not None or any(map(_is_begun, _folders(folder / "tuning"))):
        return True
    return any(is_run(path) for seed in _seeds(folder) for path in (seed, *_folders(seed)))


def _is_begun(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("inputs.json", "done.json"))


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _require_workdir(folder: Path) -> None:
    """Raises: UserError if a folder is not the workdir of a run."""
    if is_run(folder):
        return
    if not folder.exists():
        raise UserError(f"WORKDIR {folder}: no such folder; name the --workdir of a run")
    parents = list(folder.absolute().parents)[:3]
    near = next((p for p in parents if is_run(p) or is_benchmark(p)), None)
    advice = f"did you mean {near}?" if near else "name the --workdir of `vdu run` or `vdu train`"
    raise UserError(
        f"WORKDIR {folder}: is no workdir of vdu, for no stage has begun there; {advice}"
    )


def read(workdir: Path) -> Status:
    """The facts of a run's workdir.

    Raises:
      UserError: if the folder is none.
    """
    workdir = Path(workdir)
    _require_workdir(workdir)
    methods = _methods(workdir)
    stages = _read_stages(workdir, methods)
    holders = list(_holders([workdir / ".lock"]))
    return Status(
        workdir=str(workdir),
        contents=_contents(_inputs(workdir), workdir / "train"),
        stages=stages,
        methods={m: kept for m in methods if (kept := _kept(workdir / "unlearn" / m))},
        figures={m: found for m in (ORIGINAL, *methods) if (found := _figures(workdir, m))},
        holders=holders,
        bytes=_disk_usage(workdir),
        next=_next_command(workdir, stages, holders),
    )


def _methods(workdir: Path) -> list[str]:
    """The methods that any stage has begun."""
    begun = [f for stage in PER_MODEL for f in _folders(workdir / stage) if _is_begun(f)]
    return sorted({folder.name for folder in begun} - {ORIGINAL})


def _read_stages(workdir: Path, methods: list[str]) -> dict[str, list[Part]]:
    """The parts of every stage that the run has, or is likely to have."""
    marks: dict[str, str | None] = {}  # part -> its fingerprint, once it is done
    stages: dict[str, list[Part]] = {}
    for stage in STAGES:
        names = [stage]
        if stage in PER_MODEL:
            models = methods if stage == "unlearn" else [ORIGINAL, *methods]
            names = [f"{stage}/{model}" for model in models] or [stage]
        parts = [_read_part(workdir, name, marks) for name in names]
        if stage not in OPTIONAL or any(part.state != "missing" for part in parts):
            stages[stage] = parts
    needed = {
        "train": not _has_other_model(workdir),
        "posterior": not _needs_no_posterior(workdir, methods),
    }
    for stage, is_needed in needed.items():
        if stages[stage][0].state == "missing" and not is_needed:
            stages[stage] = [Part(stage, "not needed")]
    return stages


def _has_other_model(workdir: Path) -> bool:
    """Whether what is unlearned lies elsewhere: something was made of a model, and none is here."""
    return any(_is_begun(workdir / name) for name in ("import", "posterior", "replay"))


def _needs_no_posterior(workdir: Path, methods: list[str]) -> bool:
    """Whether the methods that have begun take no posterior."""
    inputs = [_try_load(workdir / "unlearn" / method / "inputs.json") for method in methods]
    return any(inputs) and not any("upstream.posterior" in one for one in inputs)


def _read_part(workdir: Path, name: str, marks: dict[str, str | None]) -> Part:
    """What there is of a stage; notes in `marks` its fingerprint.

    Args:
      marks: those of the stages before.
    """
    folder = workdir / name
    if not _is_begun(folder):
        return Part(name, "missing")
    repair = f"put it back from a copy, or delete {folder} and run again"
    try:
        inputs, done = _load(folder / "inputs.json") or {}, _load(folder / "done.json")
        if done is not None and not done.keys() >= {"fingerprint", "summary"}:
            raise Damaged(f"{folder / 'done.json'} lacks fingerprint or summary")
        steps = _total_steps(inputs)
        if done is None:
            return Part(name, "begun", step=_newest_state(folder), steps=steps)
        _check_checkpoints(folder, done["summary"])
    except Damaged as error:
        return Part(name, "damaged", f"{error}: {repair}")
    marks[name] = done["fingerprint"]
    if name in ("import", "train"):
        marks[ORIGINAL] = done["fingerprint"]
    seconds = _try_load(folder / "timings.json").get("total")
    if why := _outdated(workdir, name, inputs, marks):
        return Part(name, "outdated", why, steps=steps, seconds=seconds)
    return Part(name, "done", steps=steps, seconds=seconds)


def _outdated(
    workdir: Path, name: str, inputs: Mapping[str, Any], marks: Mapping[str, str | None]
) -> str:
    """Which upstream stage a part was not made from, though it is there; "" if there is none."""
    for key, recorded in inputs.items():
        upstream = key.removeprefix("upstream.")
        if key != upstream and marks.get(upstream, recorded) != recorded:
            which = "model" if upstream == ORIGINAL else upstream
            return f"made from another {which} than the one that is there"
    evaluated = [f"evaluate/{folder.name}" for folder in _folders(workdir / "evaluate")]
    new = [other for other in evaluated if marks.get(other) and f"upstream.{other}" not in inputs]
    return f"made without {', '.join(new)}" if name == "report" and new else ""


def _total_steps(inputs: Mapping[str, Any]) -> int | None:
    """Of a fit, by the recorded settings."""
    retrained = inputs.get("method.objective") == "retrain"
    return inputs.get(
        "method.steps" if "method.steps" in inputs and not retrained else "train.steps"
    )


def _steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in order."""
    return sorted(int(path.name) for path in _folders(folder) if path.name.isdigit())


def _newest_state(folder: Path) -> int | None:
    """The newest step whose state is whole; None if no state is saved yet.

    Raises:
      Damaged: if no saved state is whole.
    """
    error = None
    for step in reversed(_steps(folder / "state")):
        try:
            _check_sums(folder / "state", step)
        except Damaged as raised:
            error = error or raised
        else:
            return step
    if error:
        raise error
    return None


def _check_checkpoints(folder: Path, summary: Mapping[str, Any]) -> None:
    """Raises: Damaged if a checkpoint of a finished stage is missing, or a file of one.

    Sizes are compared and no checksums: whatever reads a checkpoint does that.
    """
    for row in summary.get("snapshots") or ():
        step = row["step"] if isinstance(row, dict) else row
        if step not in _steps(folder / "snapshots"):
            raise Damaged(f"{folder / 'snapshots'} has no step {step}")
    for store in ("snapshots", "gaussian", "params"):
        for step in _steps(folder / store):
            _check_sums(folder / store, step)


def _check_sums(store: Path, step: int) -> None:
    """Raises: Damaged if a file of a checkpoint is missing or has another size than it had."""
    folder = next(
        path for path in _folders(store) if path.name.isdigit() and int(path.name) == step
    )
    for file, sums in (_load(store / f"{folder.name}.sums.json") or {}).items():
        path = folder / file
        try:
            size = path.stat().st_size
        except OSError:
            raise Damaged(f"{path} is missing") from None
        if size != sums[0]:
            raise Damaged(f"{path} has {size} bytes, and had {sums[0]}")


def _kept(folder: Path) -> dict[str, Any]:
    """What a finished method came to."""
    summary = _try_load(folder / "done.json").get("summary") or {}
    if "kept_step" not in summary:
        return {}
    objective = _try_load(folder / "inputs.json").get("method.objective")
    return {
        "objective": objective,
        "kept_step": summary["kept_step"],
        "steps": summary.get("steps"),
    }


def _figures(workdir: Path, model: str) -> dict[str, float | None]:
    """The headline figures of an evaluated model."""
    folder = workdir / "evaluate" / model
    figures = _try_load(folder / "metrics.json").get("figures")
    if not (folder / "done.json").is_file() or not isinstance(figures, dict):
        return {}
    return {key: figures.get(key) for key in ("pul", "u_fid")}


def _inputs(workdir: Path) -> dict[str, Any]:
    """The settings that the stages of a workdir record; those of later stages win."""
    merged: dict[str, Any] = {}
    for stage in STAGES:
        for folder in (workdir / stage, *_folders(workdir / stage)):
            merged |= _try_load(folder / "inputs.json")
    return merged


def _contents(inputs: Mapping[str, Any], train: Path) -> Contents:
    """What recorded settings are of; see `_inputs`."""
    sections = {key.split(".")[0] for key in inputs}
    task = "unconditional" if sections else None
    if "condition" in sections or inputs.get("model.num_class_embeds"):
        task = "class_conditional"
    if inputs.get("model.name") == "stable_diffusion" or "forget.phrase" in inputs:
        task = "text_to_image"
    names = (_try_load(train / "done.json").get("summary") or {}).get("class_names")
    return Contents(
        task=task,
        data=inputs.get("data.name"),
        # The name of the first architecture is younger than it, and is not recorded.
        network=inputs.get("model.name", "unet") if "model" in sections else None,
        forget={k.split(".")[1]: v for k, v in inputs.items() if k.startswith("forget.")},
        class_names=list(names or ()),
        settings={key: inputs[key] for key in SETTINGS if key in inputs},
    )


def _holders(locks: Iterable[Path]) -> Iterator[Holder]:
    """The processes that have the locks, by the files that stand for them.

    A lock is never taken to find that out: a command that starts meanwhile would be refused.
    """
    for path in locks:
        found = _try_load(path)
        if not {"pid", "host", "since"} <= found.keys():
            continue  # no lock, or one that is just being taken
        alive = _has_lock(path, found["pid"]) if found["host"] == platform.node() else None
        if alive is not False:
            at = "" if path.name == ".lock" else path.name.replace(",", "/")
            yield Holder(found["pid"], found["host"], found["since"], at, alive)


def _has_lock(path: Path, pid: int) -> bool:
    """Whether a process of this machine has a lock: the file outlives one that was killed."""
    try:
        inode, locks = path.stat().st_ino, Path("/proc/locks").read_text(encoding="utf-8")
        return re.search(rf" FLOCK .* {pid} \S*:{inode} ", locks) is not None
    except FileNotFoundError:
        if not path.exists():
            return False
    except OSError:
        pass
    try:  # a system without /proc/locks
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def _disk_usage(folder: Path) -> int:
    """Bytes of the files in a folder; those that vanish meanwhile are left out."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def _command(name: str, workdir: Path, config: str = "FILE") -> str:
    return f"vdu {name} --config={config} --workdir={shlex.quote(str(workdir))}"


def _is_at_work(holders: Iterable[Holder]) -> bool:
    return any(holder.alive for holder in holders)


def _next_command(
    workdir: Path, stages: Mapping[str, list[Part]], holders: list[Holder]
) -> str | None:
    """The command that goes on from what is there."""
    states = {part.state for parts in stages.values() for part in parts}
    if _is_at_work(holders):
        return None
    owner = next((p for p in list(workdir.absolute().parents)[:2] if is_benchmark(p)), None)
    if owner is not None:
        return _command("benchmark", owner)
    if states <= {"done", "not needed"}:
        return None
    begun = [
        stage for stage, parts in stages.items() if parts[0].state not in ("missing", "not needed")
    ]
    if begun == ["import"]:
        return _command("run", workdir, shlex.quote(str(workdir / "import" / "config.py")))
    return _command("run", workdir) + (" --overwrite" if "outdated" in states else "")


def read_benchmark(workdir: Path) -> BenchmarkStatus:
    """The facts of a benchmark's workdir."""
    workdir = Path(workdir)
    begun = dict(_begun_cells(workdir))
    published = _try_load(workdir / "results.json")
    planned = _planned_cells(workdir)
    finished = {c for c in published.get("cells", ()) if not c.startswith(f"{ORIGINAL}/")}
    done = finished | {cell for cell, is_done in begun.items() if is_done}
    every = finished | set(begun if planned is None else planned)
    cells: dict[str, dict[int, list[int]]] = {}
    for cell in sorted(every):
        method, _, seed = cell.rsplit("/", 2)
        count = cells.setdefault(method, {}).setdefault(int(seed), [0, 0])
        count[0] += cell in done
        count[1] += 1
    runs = [path for seed in _seeds(workdir) for path in (seed, *_folders(seed))]
    models = [path for path in runs if _is_begun(path / "train")]
    merged: dict[str, Any] = {}
    for path in runs:
        merged |= _inputs(path)
    contents = _contents(merged, models[0] / "train" if models else workdir)
    targets = sorted({cell.rsplit("/", 2)[1] for cell in every})
    forget: dict[str, Any] = {"targets": targets}
    if all(target.isdigit() for target in targets):
        forget = {"classes": sorted(map(int, targets))}
    holders = list(_holders(sorted((workdir / "locks").glob("*"))))
    is_over = bool(published) and done >= every
    return BenchmarkStatus(
        workdir=str(workdir),
        contents=dataclasses.replace(contents, forget=forget),
        models=[_read_model(workdir, path) for path in models],
        tuned={f.name: (f / "done.json").is_file() for f in _tuned(workdir)},
        cells=cells,
        planned=planned is not None or bool(published),
        figures={m: _means(row) for m, row in published.get("summary", {}).items()},
        holders=holders,
        bytes=_disk_usage(workdir),
        next=None if is_over or _is_at_work(holders) else _command("benchmark", workdir),
    )


def _seeds(workdir: Path) -> list[Path]:
    seeds = [path for path in _folders(workdir) if re.fullmatch(r"seed-\d+", path.name)]
    return sorted(seeds, key=lambda path: int(path.name.removeprefix("seed-")))


def _tuned(workdir: Path) -> list[Path]:
    """The folders with the choice among a method's candidates; not those they were made in."""
    return [path for path in _folders(workdir / "tuning") if _is_begun(path)]


def _read_model(workdir: Path, folder: Path) -> Part:
    part = _read_part(folder, "train", {})
    return dataclasses.replace(part, name=str(folder.relative_to(workdir)))


def _planned_cells(workdir: Path) -> list[str] | None:
    """The cells that the benchmark is to make; None if it does not record them."""
    cells = _try_load(workdir / "cells.json").get("cells")
    return cells if isinstance(cells, list) else None


def _begun_cells(workdir: Path) -> Iterator[tuple[str, bool]]:
    """METHOD/CLASS/SEED of the cells that have begun, and whether each is done."""
    for seed in _seeds(workdir):
        for folder in _folders(seed):
            if not folder.name.startswith("class-"):
                continue
            forget = folder.name.removeprefix("class-").partition("+")[0]
            # Relearning, where there is any, comes last.
            last = "relearn" if (folder / "relearn").is_dir() else "evaluate"
            for method in _folders(folder / "unlearn"):
                cell = f"{method.name}/{forget}/{seed.name.removeprefix('seed-')}"
                yield cell, (folder / last / method.name / "done.json").is_file()


def _means(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {key: (row.get(key) or {}).get("mean") for key in ("pul", "u_fid")}


# Printing


def print_json(kind: str, status: Status | BenchmarkStatus) -> None:
    """Print the facts as one line of JSON."""
    print(json.dumps({"kind": kind} | dataclasses.asdict(status)))


def show(status: Status) -> None:
    """Print the facts of a run, for people."""
    print(f"{status.workdir}: {_subject(status.contents)}\n")
    _show_states([(stage, _state(parts), _about(parts)) for stage, parts in status.stages.items()])
    kept = {name: method["kept_step"] for name, method in status.methods.items()}
    _show_figures("kept step", kept, status.figures)
    damaged = any(part.state == "damaged" for parts in status.stages.values() for part in parts)
    _show_end(status, "report/report.html", "repair or delete what is damaged" if damaged else "")


def show_benchmark(status: BenchmarkStatus) -> None:
    """Print the facts of a benchmark, for people."""
    print(f"{status.workdir}: benchmark, {_subject(status.contents)}\n")
    rows = [(f"train {part.name}", part.state, _about([part])) for part in status.models]
    for method, is_chosen in status.tuned.items():
        rows.append((f"tune {method}", "done" if is_chosen else "begun", ""))
    counts = [count for row in status.cells.values() for count in row.values()]
    done, every = (sum(count[i] for count in counts) for i in (0, 1))
    known = "" if status.planned else " that have begun; the config says how many there are"
    is_over = status.planned and done == every
    rows.append(("cells", "done" if is_over else "begun", f"{done} of {every}{known}"))
    _show_states(rows)
    _show_cells(status.cells)
    _show_figures("", {}, status.figures)
    _show_end(status, "results.json")


def _subject(contents: Contents) -> str:
    """What a workdir is of, in words."""
    kinds = {
        "unconditional": "unconditional model",
        "class_conditional": "class-conditional model",
        "text_to_image": "text-to-image model",
    }
    text = kinds.get(contents.task or "", "no stage has recorded its settings yet")
    text += f" ({contents.network})" if contents.network else ""
    text += f" of {contents.data}" if contents.data else ""
    if phrase := contents.forget.get("phrase"):
        return f"{text}, to forget {shown(phrase)}"
    if targets := contents.forget.get("targets"):
        return f"{text}, to forget each of {', '.join(targets)}"
    classes, names = contents.forget.get("classes", ()), contents.class_names
    named = [
        f"{c} ({names[c]})" if c < len(names) and names[c] != str(c) else f"{c}" for c in classes
    ]
    plural = "es" if len(named) > 1 else ""
    return text + (f", to forget class{plural} {', '.join(named)}" if named else "")


def _state(parts: list[Part]) -> str:
    """The state of a stage, by those of its parts."""
    states = [part.state for part in parts]
    for state in ("damaged", "outdated"):
        if state in states:
            return state
    return states[0] if len(set(states)) == 1 else "begun"


def _about(parts: list[Part]) -> str:
    """What is to be said of a stage beside its state."""
    seconds = [part.seconds for part in parts if part.seconds is not None]
    took = f"{terminal.duration(sum(seconds))}" if seconds else ""
    if not _model(parts[0]):
        return took if _state(parts) == "done" else _detail(parts[0])
    if _state(parts) in ("done", "missing"):
        return ": ".join(filter(None, (", ".join(map(_model, parts)), took)))
    said: dict[str, list[str]] = {}  # what there is -> the models of which that is so
    for part in parts:
        said.setdefault(_detail(part) or part.state, []).append(_model(part))
    return "; ".join(f"{', '.join(models)}: {detail}" for detail, models in said.items())


def _model(part: Part) -> str:
    """The model that a part is of; "" where a stage is not made for each model."""
    stage, _, model = part.name.partition("/")
    return model if stage in PER_MODEL else ""


def _detail(part: Part) -> str:
    """What is outdated or damaged, or how far a fit has come."""
    if part.state != "begun" or part.steps is None:
        return part.why
    if part.step is None:
        return f"no state of its {part.steps} steps is saved yet"
    return f"the state of step {part.step} of {part.steps} is saved"


def _show_states(rows: list[tuple[str, str, str]]) -> None:
    """Lines of a name, a state and what is to be said of it."""
    width = max(len(name) for name, _, _ in rows) + 2
    for name, state, about in rows:
        style = STYLES.get(state)
        painted = terminal.paint(state, style, sys.stdout) if style else state
        space = " " * (12 - len(state)) if about else ""
        bold = terminal.paint(name, "name", sys.stdout)
        print(f"{bold}{' ' * (width - len(name))}{painted}{space}{about}")


def _show_cells(cells: Mapping[str, Mapping[int, list[int]]]) -> None:
    """A table of how many cells are done: a row a method, a column a training seed."""
    seeds = sorted({seed for row in cells.values() for seed in row})
    width = max(map(len, (*cells, "cells done"))) + 2
    if seeds:
        print(f"\n{'cells done':<{width}}" + "".join(f"{f'seed {seed}':>10}" for seed in seeds))
    for method, row in cells.items():
        counts = ["{} of {}".format(*row[seed]) if seed in row else "–" for seed in seeds]
        print(f"{method:<{width}}" + "".join(f"{count:>10}" for count in counts))


def _show_figures(
    head: str, kept: Mapping[str, int], figures: Mapping[str, Mapping[str, float | None]]
) -> None:
    """A table of the models: kept step, PUL, u-FID."""
    models = [*figures, *(model for model in kept if model not in figures)]
    if not models:
        return
    width = max(12, *map(len, models)) + 2
    print(f"\n{'model':<{width}}" + (f"{head:>10}" if head else "") + f"{'PUL %':>10}{'u-FID':>10}")
    for model in models:
        row = figures.get(model, {})
        cells = [str(kept.get(model, "–"))] if head else []
        for value, digits in ((row.get("pul"), 1), (row.get("u_fid"), 2)):
            cells.append("–" if value is None else f"{value:.{digits}f}")
        print(f"{model:<{width}}" + "".join(f"{cell:>10}" for cell in cells))


def _show_end(status: Status | BenchmarkStatus, result: str, first: str = "") -> None:
    """Print settings, processes at work, disk space and the next command.

    Args:
      result: the file to look at when nothing is left to do.
      first: what must be done before the next command; "" for nothing.
    """
    print()
    if status.contents.settings:
        settings = [f"{key}={value}" for key, value in status.contents.settings.items()]
        print(textwrap.fill(f"settings  {', '.join(settings)}", 100, subsequent_indent=" " * 10))
    for holder in status.holders:
        at = f" at {holder.at}" if holder.at else ""
        seen = "" if holder.alive else "; whether it still runs can be seen on that machine only"
        print(f"at work   process {holder.pid} on {holder.host} since {holder.since}{at}{seen}")
    print(f"disk      {terminal.size(status.bytes)}")
    if first:
        print(f"first     {first}")
    if status.next is not None:
        print(f"next      {terminal.paint(status.next, 'name', sys.stdout)}")
    elif _is_at_work(status.holders):
        print("next      wait for that process; if it is stopped, the same command continues")
    else:
        print(f"next      nothing is left to do; see {Path(status.workdir) / result}")
