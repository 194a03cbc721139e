"""`vdu benchmark`: run every method on every forget class (or target) and training seed.

    seed-<s>/                      the model trained with a seed, and samples of it
    seed-<s>/run-<i>/              further runs from the same initial parameters (ablations)
    seed-<s>/class-<c>[+<changes>]/  an ordinary workdir that unlearns one class from that model
    tuning/class-<c>/              candidate settings of each method, on the tuning class
    tuning/<method>/               the candidate that was chosen
    again/<cell>/                  a cell that --only made again
    classifier/                    shared by all cells
    locks/                         files that are locked by the process that works on a part
    cells.json                     the cells to make, for `vdu status`
    results.json                   all figures, with config and versions; see `comparison`

A cell is METHOD/CLASS/SEED. Cells are made by the stages of `vdu run`, so finished ones are skipped
and an interrupted benchmark continues. Several processes may share a workdir: each takes a cell
that no other works on. results.json does not depend on time, interruptions or the number of
processes.
"""

import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdu_jax import config as config_lib
from vdu_jax import forget_detector, tasks
from vdu_jax.errors import UserError
from vdu_jax.metrics.quality import METRICS, value_of
from vdu_jax.runtime import artifacts, progress, terminal
from vdu_jax.stages import (
    comparison,
    cost,
    evaluate,
    posterior,
    relearn,
    replay,
    sample,
    train,
    unlearn,
)  # fmt: skip
from vdu_jax.tasks import ORIGINAL

SEED_STEP = 10  # distance of the sampling seeds of two training seeds
RUN_STEP = 1000  # distance of the training seeds of two runs from the same initial parameters
GRID = 48  # images of a model in a grid
# Figures that `--only` prints and compares.
FIGURES = (
    "pul", "u_fid", *(metric.key for metric in METRICS), "confidence", "histogram", "kept_step",
    "steps",
)  # fmt: skip


class Cell(NamedTuple):
    """One method on one forget class or target, with one training seed.

    Attributes:
      method: name in `config.methods`.
      forget: class, or name of a target.
      seed: training seed.
    """

    method: str
    forget: int | str
    seed: int

    def __str__(self) -> str:
        return f"{self.method}/{self.forget}/{self.seed}"


def parse_cell(config: ConfigDict, text: str) -> Cell:
    """The cell METHOD/CLASS/SEED.

    Args:
      config: all settings.
      text: the cell as --only names it.

    Raises:
      UserError: if the config has no such cell.
    """
    named = {str(cell): cell for cell in cells(config)}
    if text not in named:
        raise UserError(
            f"--only={text}: no cell METHOD/CLASS/SEED of this config; its methods are "
            f"{', '.join(sorted(config.methods))}, e.g. --only={next(iter(named))}"
        )
    return named[text]


def cells(config: ConfigDict) -> list[Cell]:
    """All cells, ordered by seed, then class, then method; retrained models first."""
    section = config.benchmark
    names = sorted(config.methods, key=lambda m: (not unlearn.is_retrained(config, m), m))
    return [
        Cell(method, forget, seed)
        for seed in section.seeds
        for forget in config_lib.targets(config)
        for method in names
        if seed in section.method_seeds.get(method, section.seeds)
    ]


def compared(config: ConfigDict) -> list[str]:
    """The methods that have a cell, in alphabetical order."""
    return sorted({cell.method for cell in cells(config)})


def seed_config(config: ConfigDict, seed: int) -> ConfigDict:
    """A copy of the config for a training seed, which changes every seed in it."""
    new = config.copy_and_resolve_references()
    new.train.seed = new.train.init_seed = new.unlearn.seed = seed
    for section in ("replay", "curve", "evaluate", "relearn"):
        new[section].seed += SEED_STEP * seed
    new.posterior.fisher_seed += SEED_STEP * seed
    return new


def changes(config: ConfigDict, method: str) -> dict[str, Any]:
    """The changes of `benchmark.changes` for a method: section -> settings."""
    return config.benchmark.changes.to_dict().get(method, {})


def cell_config(
    config: ConfigDict,
    workdir: Path,
    method: str,
    forget: int | str,
    seed: int,
    entries: Mapping[str, ConfigDict],
) -> ConfigDict:
    """The config of a workdir that unlearns one class from the model of one seed.

    Args:
      config: all settings of the benchmark.
      workdir: the benchmark's folder.
      method: method whose `benchmark.changes` apply.
      forget: class, or name of a target.
      seed: training seed.
      entries: the section `methods` of the new config.
    """
    new = seed_config(config_lib.forgetting(config, forget), seed)
    if not new.model.get("folder"):  # the model of a folder is not trained here
        new.unlearn.init_from = str(workdir / f"seed-{seed}")
    new.classifier.dir = str(workdir)
    new.methods = entries
    new.update(changes(config, method))
    if new.posterior.source == "runs":
        folder = workdir / f"seed-{seed}"
        new.posterior.runs = tuple(str(folder / f"run-{i}") for i in range(1, new.posterior.count))
    return new


def place(config: ConfigDict, root: Path, method: str, forget: int | str) -> Path:
    """The workdir of a class; methods with equal `benchmark.changes` share it.

    Args:
      config: all settings of the benchmark.
      root: folder in which it lies.
      method: name of the method.
      forget: class, or name of a target.
    """
    changed = artifacts.flatten("", changes(config, method))
    suffix = f"+{artifacts.fingerprint(changed)[:8]}" if changed else ""
    return root / f"class-{forget}{suffix}"


def candidates(config: ConfigDict, method: str) -> list[ConfigDict]:
    """The candidate settings of a method: its entry with each change of its grid."""
    entry = config.methods[method]
    return [config_lib.change_method(method, entry, c) for c in config.benchmark.grids[method]]


def lock(workdir: Path, part: Path, wait: bool = True) -> AbstractContextManager[bool]:
    """Lock a part of a benchmark for this process; see `artifacts.lock`.

    Args:
      workdir: the benchmark's folder.
      part: path in it, which need not exist.
      wait: whether to wait for another process.
    """
    name = str(part.relative_to(workdir)).replace("/", ",")
    return artifacts.lock(workdir / "locks" / name, wait)


def share(workdir: Path, work: Mapping[str, Callable[[], None]], wait: bool = True) -> None:
    """Share work between the processes of a benchmark: each part is done by one of them.

    Args:
      workdir: the benchmark's folder.
      work: name of a part -> function that does it, and does nothing if it is done.
      wait: whether to wait at the end for parts that other processes work on, and do those of a
        process that died.
    """
    left = dict(work)
    for patient in (False, True) if wait else (False,):
        for name, do in list(left.items()):
            with lock(workdir, workdir / name, patient) as mine:
                if mine:
                    do()
                    del left[name]


def tune(config: ConfigDict, workdir: Path, method: str) -> ConfigDict:
    """The settings of a method: the best candidate of its grid on the tuning class.

    The rule that keeps a step (`forget_detector.choose_step`) also chooses the candidate. It sees
    D_f and the model, and neither the classifier nor the retained data.

    Args:
      config: all settings of the benchmark.
      workdir: the benchmark's folder.
      method: name of the method.

    Returns:
      Its entry of `config.methods`, unchanged if it has no grid.

    Raises:
      UserError: if every candidate diverges.
    """
    section = config.benchmark
    if method not in section.grids:
        return config.methods[method]
    entries, seed = candidates(config, method), section.seeds[0]
    forget = config_lib.tuning_target(config)
    named = {f"{method}-{i}": entry for i, entry in enumerate(entries)}
    new = cell_config(config, workdir, method, forget, seed, named)
    folder = place(config, workdir / "tuning", method, forget)
    prepare(new, workdir, folder)
    stage = artifacts.StageDir(
        workdir,
        f"tuning/{method}",
        {f"{name}": unlearn.stage_dir(tasks.of(new, folder), name).inputs for name in named},
    )
    if not stage.done():
        stage.begin()
        best, rows = [], []
        for index, name in enumerate(named):
            rows.append({"changes": dict(section.grids[method][index])})
            try:
                unlearn.run_method(new, folder, name)
            except unlearn.Diverged as error:
                last = error
                continue
            summary = artifacts.upstream(folder, f"unlearn/{name}")["summary"]
            kept = next(s for s in summary["snapshots"] if s["step"] == summary["kept_step"])
            rows[-1] |= kept
            # Earlier versions stored no interval; the rule below does not need it.
            unsure = {"estimated_pul_high": kept["estimated_pul"]}
            best.append(forget_detector.Snapshot(**unsure | kept | {"step": index}))
        if not best:
            raise UserError(
                f"config key benchmark.grids.{method}: every candidate diverges; the last: {last}"
            )
        chosen, _ = forget_detector.choose_step(best, config.methods[method].target_pul)
        stage.finish({"chosen": chosen, "candidates": rows})
    return entries[artifacts.finished(stage.path)["summary"]["chosen"]]


def trainings(config: ConfigDict) -> dict[Path, ConfigDict]:
    """The models that must be trained for a class: workdir -> config.

    Args:
      config: config of the class's workdir, see `cell_config`.
    """
    original = config.copy_and_resolve_references()
    if not config.unlearn.init_from:
        return {}
    original.unlearn.init_from = original.train.get("init_from", "")
    models = {Path(config.unlearn.init_from): original}
    for folder in map(Path, config.posterior.runs):
        new = models[folder] = original.copy_and_resolve_references()
        new.train.seed += RUN_STEP * int(folder.name.removeprefix("run-"))
    return models


def train_model(config: ConfigDict, workdir: Path, folder: Path) -> None:
    """Train one model of a benchmark, or wait for the process that does.

    Args:
      config: config of the model's workdir, see `trainings`.
      workdir: the benchmark's folder.
      folder: the model's workdir.
    """
    with lock(workdir, folder):
        train.run(config, folder)


def prepare(config: ConfigDict, workdir: Path, folder: Path) -> None:
    """Make what all methods of a class share: the trained model, the posterior and replay.

    Args:
      config: config of the class's workdir, see `cell_config`.
      workdir: the benchmark's folder.
      folder: the class's workdir.
    """
    for where, settings in trainings(config).items():
        train_model(settings, workdir, where)
    with lock(workdir, folder):
        posterior.run(config, folder)
        replay.run(config, folder)


def open_cell(
    config: ConfigDict, workdir: Path, root: Path, cell: Cell, settings: ConfigDict
) -> tuple[ConfigDict, Path]:
    """The config and the workdir of a cell; the arguments are those of `run_cell`."""
    new = cell_config(config, workdir, cell.method, cell.forget, cell.seed, {cell.method: settings})
    return new, place(config, root, cell.method, cell.forget)


def run_cell(
    config: ConfigDict,
    workdir: Path,
    root: Path,
    cell: Cell,
    settings: ConfigDict,
    cache: dict[Path, tasks.Evaluator],
) -> dict[str, Any]:
    """Run the stages of a cell that are not finished.

    Args:
      config: all settings of the benchmark.
      workdir: the benchmark's folder.
      root: folder in which the class's workdir lies.
      cell: the cell.
      settings: the method's entry of `config.methods`, tuned.
      cache: workdir of a class -> evaluator; only the last one is kept.

    Returns:
      The figures of the cell, with those of the original under "original".
    """
    new, folder = open_cell(config, workdir, root, cell, settings)
    prepare(new, workdir, folder)
    unlearn.run_method(new, folder, cell.method)
    for model in (ORIGINAL, cell.method):
        with lock(workdir, folder / model):
            measure(new, workdir, folder, model, cache)
    return figures(new, folder, cell.method)


def measure(
    config: ConfigDict,
    workdir: Path,
    folder: Path,
    model: str,
    cache: dict[Path, tasks.Evaluator],
) -> None:
    """Sample, evaluate and relearn one model, as far as these are not finished.

    Args:
      config: config of the class's workdir, see `cell_config`.
      workdir: the benchmark's folder.
      folder: the class's workdir.
      model: "original" or the name of the method.
      cache: as in `run_cell`.
    """
    sample.run_model(config, folder, model)
    task = tasks.of(config, folder)
    if not evaluate.stage_dir(task, model).done():
        if folder not in cache:
            cache.clear()
            with lock(workdir, workdir / "classifier"):
                cache[folder] = evaluate.make_evaluator(task)
        evaluate.run_model(task, model, cache[folder])
    if config.relearn.images:
        relearn.run_model(task, model)


def figures(config: ConfigDict, folder: Path, method: str) -> dict[str, Any]:
    """The published figures of a cell; they do not depend on time or interruptions.

    Args:
      config: config of the class's workdir, see `cell_config`.
      folder: the class's workdir.
      method: name of the method.
    """
    made = artifacts.upstream(folder, f"unlearn/{method}")
    task = tasks.of(config, folder)
    summary = made["summary"]
    rows = {}
    for model in (method, ORIGINAL):
        measured = evaluate.load(folder, model)
        rows[model] = measured.pop("figures") | measured
        values = task.column_values(rows[model])
        rows[model] |= {key: value_of(figure) for key, figure in values.items()}
        if config.relearn.images:
            rows[model]["relearning"] = artifacts.upstream(folder, f"relearn/{model}")["summary"]
    row = rows[method]
    for key in ("kept_step", "why", "stopped", "steps", "sees"):
        row[key] = summary[key]
    spent = cost.of_method(task, method)
    row["cost"] = spent._asdict()
    if spent.training:
        row["share_of_training"] = spent.updates / spent.training
        row["share_in_all"] = spent.total / spent.training
    row["original"] = rows[ORIGINAL]
    row["provenance"] = made["provenance"]
    return row


def run(config: ConfigDict, workdir: Path, onto: str = "") -> None:
    """Run all cells and write results.json, tables and plots.

    Args:
      config: all settings.
      workdir: the benchmark's folder.
      onto: a results.json whose cells and tuned settings are adopted; "" for none.

    Raises:
      UserError: if `onto` does not fit the config, or as the stages.
    """
    workdir = Path(workdir)
    cache: dict[Path, tasks.Evaluator] = {}
    given = read_published(config, Path(onto)) if onto else {"cells": {}, "tuned": {}}
    todo = [cell for cell in cells(config) if str(cell) not in given["cells"]]
    untuned = [method for method in compared(config) if method not in given["tuned"]]

    artifacts.write_json(workdir / "cells.json", {"cells": [str(cell) for cell in todo]})
    models = {}
    for cell in todo:
        new, _ = open_cell(config, workdir, workdir, cell, config.methods[cell.method])
        for folder, of_model in trainings(new).items():
            name = f"train/{folder.relative_to(workdir)}"
            models[name] = functools.partial(train_model, of_model, workdir, folder)
    share(workdir, models, wait=False)
    share(workdir, {f"tuning/{m}": functools.partial(tune, config, workdir, m) for m in untuned})
    given_settings = {m: tuned["settings"] for m, tuned in given["tuned"].items()}
    settings = {m: comparison.complete_method(s) for m, s in given_settings.items()}
    settings |= {m: tune(config, workdir, m) for m in untuned}
    started, made = time.monotonic(), 0

    def place_of(cell: Cell) -> Path:
        return place(config, workdir / f"seed-{cell.seed}", cell.method, cell.forget)

    def missing(cell: Cell) -> bool:
        last = "relearn" if config.relearn.images else "evaluate"
        return not (place_of(cell) / last / cell.method / "done.json").exists()

    def make(cell: Cell) -> None:
        nonlocal made
        new, root, began = missing(cell), workdir / f"seed-{cell.seed}", time.monotonic()
        row = run_cell(config, workdir, root, cell, settings[cell.method], cache)
        name = f"cell {terminal.paint(str(cell), 'name')}"
        if not new:
            progress.report_done(name, place_of(cell), None)
            return
        made, left, now = made + 1, sum(map(missing, todo)), time.monotonic()
        pul, u_fid = (math.nan if row.get(k) is None else row[k] for k in ("pul", "u_fid"))
        ahead = terminal.duration(left * (now - started) / made)
        measured = f": PUL {pul:.1f} %, u-FID {u_fid:.2f}"
        rest = f"; {left} of {len(todo)} left, about {ahead} for this process alone"
        progress.report_done(name, place_of(cell), now - began, measured + rest)

    share(workdir, {f"cells/{cell}": functools.partial(make, cell) for cell in todo})
    rows = {}
    for cell in todo:
        root = workdir / f"seed-{cell.seed}"
        new, folder = open_cell(config, workdir, root, cell, settings[cell.method])
        rows[cell] = figures(new, folder, cell.method)
    tuned = given["tuned"] | {m: tuning(config, workdir, m) for m in untuned}
    published = comparison.results(config, tuned, rows, given, tasks.of(config).columns)
    with lock(workdir, workdir / "results"):
        artifacts.write_json(workdir / "results.json", published)
        comparison.write(published, workdir, grids(config, workdir, todo))
    print(comparison.table(published))
    print(f"results: {workdir / 'results.json'}")


def read_published(config: ConfigDict, file: Path) -> dict[str, Any]:
    """Read a results.json that this config's benchmark can extend.

    Args:
      config: all settings; methods, classes, targets and seeds may be more than the file's.
      file: the results.json.

    Raises:
      UserError: for another setting that differs, or a cell that the config does not have.
    """
    published = artifacts.read_json(file)
    if not isinstance(published, dict) or not published.keys() >= {"config", "cells", "tuned"}:
        raise UserError(f"{file} is not a results.json of `vdu benchmark`")
    old, new = map(comparison.complete, (published["config"], comparison.settings(config)))
    for method in new["methods"].keys() - old["methods"].keys():  # methods may be added
        for section in (new["methods"], new["benchmark"]["grids"], new["benchmark"]["changes"]):
            section.pop(method, None)
    for key in ("classes", "targets", "seeds", "method_seeds"):  # these may grow
        for one in (old, new):
            one["benchmark"].pop(key, None)
    old, new = (artifacts.flatten("", json.loads(artifacts.dumps(c))) for c in (old, new))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise UserError(
                f"{file} was made with {key} = {old.get(key)!r}, the config now says "
                f"{new.get(key)!r}: only cells of the same settings can stand in one table"
            )
    here = {str(cell) for cell in cells(config)}
    originals = f"{comparison.ORIGINAL}/"
    gone = [c for c in published["cells"] if c not in here and not c.startswith(originals)]
    if gone:
        raise UserError(
            f"{file} has the cell {gone[0]}, which the config does not have: add it to "
            "benchmark.classes (or targets), seeds and method_seeds"
        )
    return published


def tuning(config: ConfigDict, workdir: Path, method: str) -> dict[str, Any]:
    """The published record of a method's tuning: candidates, "chosen", and "settings"."""
    summary, entry = {}, config.methods[method]
    if method in config.benchmark.grids:
        summary = artifacts.upstream(workdir, f"tuning/{method}")["summary"]
        entry = candidates(config, method)[summary["chosen"]]
    return summary | {"settings": config_lib.section_inputs("method", entry.to_dict())}


def grids(
    config: ConfigDict, workdir: Path, made: list[Cell]
) -> dict[int | str, dict[str, np.ndarray]]:
    """Images for the grids, of the first training seed.

    Args:
      config: all settings.
      workdir: the benchmark's folder.
      made: finished cells.

    Returns:
      Class or target -> model -> its first images (n, H, W, C) uint8, n ≤ `GRID`.
    """
    by_forget: dict[int | str, dict[str, np.ndarray]] = {}
    for cell in made:
        if cell.seed == config.benchmark.seeds[0]:
            folder = place(config, workdir / f"seed-{cell.seed}", cell.method, cell.forget)
            rows = by_forget.setdefault(cell.forget, {})
            for model in (ORIGINAL, cell.method):
                if model not in rows:
                    drawn = sample.load(folder, model)
                    rows[model] = tasks.of(config, folder).shown(drawn, GRID)
    return by_forget


def run_only(config: ConfigDict, workdir: Path, text: str, against: str = "") -> int:
    """Make one cell again in a folder of its own, and compare it with published figures.

    Args:
      config: all settings.
      workdir: the benchmark's folder.
      text: METHOD/CLASS/SEED.
      against: a results.json with the published figures and tuned settings; "" for the workdir's,
        if it has one.

    Returns:
      The exit code: 1 if a figure differs from the published one, else 0.

    Raises:
      UserError: if the config or the file has no such cell.
    """
    workdir, cell = Path(workdir), parse_cell(config, text)
    file = Path(against or workdir / "results.json")
    published = artifacts.read_json(file) if against or file.exists() else None
    if published and str(cell) not in published["cells"]:
        raise UserError(f"{file} has no cell {cell}: name another file with --against")
    if published and against:
        settings = comparison.complete_method(published["tuned"][cell.method]["settings"])
    else:
        with lock(workdir, workdir / "tuning" / cell.method):
            settings = tune(config, workdir, cell.method)
    root = workdir / "again" / str(cell)
    with lock(workdir, root):
        if (place(config, root, cell.method, cell.forget) / "finished").exists():
            artifacts.remove(root)
        row = run_cell(config, workdir, root, cell, settings, {})
        artifacts.write_text(place(config, root, cell.method, cell.forget) / "finished", "")
    print(json.dumps({k: row[k] for k in FIGURES if k in row}))
    if published is None:
        return 0
    old = published["cells"][str(cell)]
    differ = [k for k in FIGURES if json.loads(artifacts.dumps(row.get(k))) != old.get(k)]
    for key in differ:
        print(f"{cell}: {key} = {row[key]}, published {old[key]}")
    if not differ:
        print(f"{cell}: equal to {file}")
    return int(bool(differ))
