"""One page that shows what was unlearned, and a table on standard output.

report/report.html   one file without scripts that needs no network: figures, samples, plots, costs,
                     posterior, settings, versions
report/samples.png   samples of every model from the same noise, with its name
report/table.json    the table
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib import ticker
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import tasks
from vdu_jax.metrics import quality
from vdu_jax.runtime import artifacts, pictures
from vdu_jax.stages import comparison, cost, evaluate, sample
from vdu_jax.tasks import ORIGINAL

GRID = 60
LINES = 6  # of a model's samples, at most
NETWORKS = {"classifier": "the classifier", "inception": "Inception-v3"}

LAYER_COLUMNS = ("name", "size", "rms_mean", "std_p05", "std_median", "std_p95")


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    workdir, task = Path(workdir), tasks.of(config, workdir)
    models = sample.models(config)
    upstream = [f"evaluate/{model}" for model in models]
    if vdu_config.needs_posterior(config):
        upstream.append("posterior")
    if config.relearn.images:
        upstream += [f"relearn/{model}" for model in models]
    stage = task.stage("report", (), upstream=upstream)
    path = stage.path / "report.html"
    if not stage.done(overwrite):
        metrics = evaluate.gather(config, workdir)
        table = make_table(task, metrics)
        stage.begin()
        shown = {model: task.shown(sample.load(workdir, model), GRID) for model in models}
        artifacts.write_text(path, page(task, table, metrics, shown))
        pictures.save(stage.path / "samples.png", pictures.labelled(shown, LINES))
        artifacts.write_json(stage.path / "table.json", table)
        stage.finish({})
    stored = artifacts.read_json(stage.path / "table.json")
    table = {model: stored[model] for model in models}
    show(table, path, task)


def show(table: dict, path: Path, task: tasks.Task) -> None:
    """Print the table, the report's place, and the table as one JSON line."""
    columns = task.columns
    heads = ["PUL %", "u-FID", "bias", "images", "steps", *columns.values()]
    widths = [max(9, len(head) + 2) for head in heads]

    def line(cells: Iterable[Any]) -> str:
        return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    print(f"\n{'model':<16}{line(heads)}{'seconds':>10}")
    for model, row in table.items():
        cells = [_number(row["pul"], 1), _number(row["u_fid"], 2), _bias(row["u_fid_bias"])]
        cells += ["–" if row["images"] is None else row["images"], row["steps"]]
        cells += (_number(row[key], 1) for key in columns)
        print(f"{model:<16}{line(cells)}{row['seconds']:>10.1f}")
    if any(row["u_fid"] is not None for row in table.values()):
        network = NETWORKS[task.config.evaluate.features]
        print(f"u-FID in {network}'s features; the original's: of what is to stay.")
        print(
            "bias: the u-FID that real images are expected at, with as many images as the model's."
        )
    if task.about_columns:
        print(task.about_columns)
    print(f"report: {path}")
    print(json.dumps(table))


def make_table(task: tasks.Task, metrics: dict) -> dict:
    """model -> pul, u_fid, its bias and images, steps (to the one kept), seconds (of all the
    optimisation), and the task's own columns."""
    table = {}
    for model in sample.models(task.config):
        measured, is_original = metrics["models"][model], model == ORIGINAL
        folder = task.original_folder() if is_original else task.workdir / "unlearn" / model
        if is_original:
            steps = task.last_checkpoint()[1]
        else:
            steps = artifacts.finished(folder)["summary"]["kept_step"]
        # Without a step it is a folder from elsewhere, which took no time here.
        seconds = 0.0 if steps is None else artifacts.timings(folder).get("fit", 0.0)
        images = None
        if "u_fid" in measured:
            forget = metrics.get("forget_classes", ())
            images = comparison.image_count(model, measured, forget)
        table[model] = {
            "pul": measured["pul"],
            "u_fid": measured.get("u_fid"),
            "u_fid_bias": measured.get("u_fid_bias"),
            "images": images,
            "steps": steps or 0,
            "seconds": round(seconds, 1),
        }
        values = task.column_values(measured)
        table[model] |= {key: quality.value_of(values[key]) for key in task.columns}
    return table


def page(task: tasks.Task, table: dict, metrics: dict, samples: Mapping[str, np.ndarray]) -> str:
    """The whole report as HTML: the template report.html, filled in.

    Args:
      samples: model -> its first images (n, H, W, C) uint8.
    """
    config, workdir, models = task.config, task.workdir, metrics["models"]
    replayed = artifacts.upstream(workdir, "replay")
    posterior, layers = None, []
    if vdu_config.needs_posterior(config):
        posterior = artifacts.upstream(workdir, "posterior")["summary"]
        layers = artifacts.read_json(workdir / "posterior" / "layers.json")
    has_histogram = all("histogram" in figures for figures in models.values())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vdu_jax.stages", ""),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(
        title=f"Unlearning {task.subject} from {config.data.name}",
        answer=_answer(table, models),
        samples=[(model, *_embedded(images)) for model, images in samples.items()],
        figures=_figures(metrics, table),
        metrics={"reference": None, "classifier": None, "replay": None} | metrics,
        original=models[ORIGINAL],
        network=NETWORKS[metrics["features"]],
        others=_other_metrics(metrics),
        also=_also(metrics),
        own=_own_columns(task, metrics) if task.columns else None,
        about_own=task.about_columns,
        curve=_curve(config, workdir, metrics, table),
        kept=_kept(config, workdir),
        costs=_costs(task),
        histogram=has_histogram and [[m, *figures["histogram"]] for m, figures in models.items()],
        class_names=list(task.class_names) if has_histogram else [],
        relearning=_relearning(config, workdir) if config.relearn.images else None,
        replay=replayed["summary"],
        replay_seconds=artifacts.timings(workdir / "replay")["total"],
        posterior=posterior,
        layers=[
            [v if isinstance(v, int | str) else f"{v:.2e}" for v in map(layer.get, LAYER_COLUMNS)]
            for layer in layers
        ],
        layer_columns=LAYER_COLUMNS,
        provenance=artifacts.dumps(replayed["provenance"]),
        settings=artifacts.dumps(config.to_dict()),
    )


def _answer(table: dict, models: Mapping[str, Mapping]) -> list[str]:
    """The result in two lines: how much each model forgot, and how good its images are."""
    rates = ", ".join(f"{m} {100 * models[m]['forget_rate']:.1f}\N{NO-BREAK SPACE}%" for m in table)
    lines = [f"Samples that show what is to be forgotten: {rates}."]
    if any(row["u_fid"] is not None for row in table.values()):
        distances = ", ".join(f"{m} {_number(row['u_fid'], 2)}" for m, row in table.items())
        lines.append(f"Distance to the retained images (u-FID, lower is better): {distances}.")
    return lines


def _embedded(images: np.ndarray) -> tuple[str, int, int]:
    """A model's samples as base64 of a PNG file, with its width and height."""
    picture = pictures.compared(images, LINES)
    return base64.b64encode(pictures.png_bytes(picture)).decode(), picture.width, picture.height


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _bias(value: float | None) -> str:
    return _number(value, 2) if value is None or value >= 0.1 else f"{value:.1g}"


def _quality(metric: quality.Metric, figure: float | Mapping | None) -> str:
    """A figure of `quality.METRICS`; with its standard error, and then to one digit more."""
    scale = metric.scale
    if not isinstance(figure, Mapping):
        return _number(figure and scale * figure, metric.digits)
    text = _number(scale * figure["value"], metric.digits + 1)
    error = figure["standard_error"]
    return text if error is None else f"{text} ± {scale * error:.{metric.digits + 1}f}"


def _bits_per_dim(figures: dict, kind: str) -> str:
    """mean ± standard error, and in brackets of how many images."""
    text, of = _number(figures["bits_per_dim"][kind], 3), figures.get("bits_per_dim_of")
    if of is None:
        return text
    error = of[kind]["standard_error"]
    return f"{text}{'' if error is None else f' ± {error:.3f}'} ({of[kind]['images']})"


def _figures(metrics: dict, table: dict) -> tuple[list, list]:
    """Header and rows of the table of all models."""
    rows, original = [], metrics["models"][ORIGINAL]
    measured = quality.measured(metrics["models"].values())
    kinds, has_quality = original.get("bits_per_dim", {}), "u_fid" in original
    reweighted = "u_fid_at_shares" in original
    for model, row in table.items():
        m = metrics["models"][model]
        low, high = m["pul_interval"]
        cells = [model, "–" if low is None else f"{row['pul']:.1f} [{low:.1f}, {high:.1f}]"]
        if has_quality:
            cells += [_number(row["u_fid"], 2), _bias(row["u_fid_bias"]), row["images"]]
            cells += [_number(m.get("u_fid_at_shares"), 2)] if reweighted else []
            cells += [_quality(metric, m.get(metric.key)) for metric in measured]
        cells += [f"{100 * m['forget_rate']:.2f}"]
        cells += [f"{m['confidence']:.3f}"] if "confidence" in m else []
        cells += [_bits_per_dim(m, kind) for kind in kinds]
        rows.append([*cells, row["steps"], f"{row['seconds']:.0f}"])
    header = ["model", "PUL % [95 %]"]
    if has_quality:
        header += ["u-FID", "its bias", "images"]
        header += ["u-FID at D_r's shares"] if reweighted else []
        header += [metric.head for metric in measured]
    header += ["to be forgotten %"] + (["confidence"] if "confidence" in original else [])
    header += [f"bits per dimension, {kind} (images)" for kind in kinds]
    header += ["steps", "seconds"]
    return header, rows


def _own_columns(task: tasks.Task, metrics: dict) -> tuple[list, list]:
    """Header and rows of the columns that the task adds."""
    rows = [
        [model, *map(_with_interval, task.column_values(figures).values())]
        for model, figures in metrics["models"].items()
    ]
    return ["model", *task.columns.values()], rows


def _other_metrics(metrics: dict) -> str:
    """The metrics of quality beside u-FID, and what must be known of them."""
    measured = quality.measured(metrics["models"].values())
    return quality.listed([f"{m.name}{f' ({m.about})' if m.about else ''}" for m in measured])


def _also(metrics: dict) -> list[str]:
    """Other u-FIDs to compare the original's with."""
    lines, original = [], metrics["models"][ORIGINAL]
    if "u_fid_all" in original:
        lines.append(f"u-FID of all its samples: {_number(original['u_fid_all'], 2)}")
    if "u_fid_held_out" in metrics:
        # Files of an earlier version do not say of how many.
        count = f" for {metrics['held_out_images']} of them" if metrics.get("reference") else ""
        held_out = _number(metrics["u_fid_held_out"], 2)
        lines.append(f"of held-out real images: {held_out}{count}")
    return lines


def _with_interval(figure: float | Mapping | None) -> str:
    """A figure in percent, with its interval and the number of images if it has them."""
    if not isinstance(figure, Mapping):
        return _number(figure, 2)
    return f"{figure['value']:.1f} [{figure['low']:.1f}, {figure['high']:.1f}] ({figure['count']})"


class Point(NamedTuple):
    """A point of a plot.

    Attributes:
      x, y: its values.
      mark: written beside it.
      about: one line that says all its values.
      is_kept: whether it is drawn as a star.
    """

    x: float
    y: float
    mark: str
    about: str
    is_kept: bool = False


class Axis(NamedTuple):
    """A range of values as shares of an axis from 0 to 1.

    Attributes:
      label: what the values are.
      low, high: the ends, as logarithms if `is_log`.
      is_log: whether equal distances are equal ratios.
      ticks: (share of the axis, text) each.
    """

    label: str
    low: float
    high: float
    is_log: bool
    ticks: list[tuple[float, str]]

    def place(self, value: float) -> float:
        return ((math.log(value) if self.is_log else value) - self.low) / (self.high - self.low)


def make_axis(label: str, values: Sequence[float], is_log: bool = False) -> Axis:
    """An axis that holds all values with a margin; logarithmic only if all are positive."""
    is_log = is_log and min(values) > 0
    low, high = (f(map(math.log, values) if is_log else values) for f in (min, max))
    margin = 0.06 * (high - low) or 0.5
    axis = Axis(label, low - margin, high + margin, is_log, [])
    ends = [math.exp(end) if is_log else end for end in axis[1:3]]
    ticks: Iterable[float] = ticker.MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(*ends)
    if is_log and ends[1] > 4 * ends[0]:
        subs = (1.0, 2.0, 5.0) if ends[1] < 300 * ends[0] else (1.0,)
        ticks = ticker.LogLocator(subs=subs, numticks=50).tick_values(*ends)
    inside = [tick for tick in ticks if ends[0] <= tick <= ends[1]]
    return axis._replace(ticks=[(axis.place(tick), f"{tick:.6g}") for tick in inside])


def _plot(
    title: str, x: Axis, y: Axis, series: Mapping[str, list[Point]], levels: Mapping[str, float]
) -> dict:
    """What the template draws: shares of the axes in place of values.

    Args:
      levels: label -> y of a horizontal line.
    """
    placed = {
        name: [(x.place(p.x), y.place(p.y), p) for p in points] for name, points in series.items()
    }
    return {
        "title": title,
        "x": x,
        "y": y,
        "series": placed,
        "levels": [(y.place(level), label) for label, level in levels.items()],
    }


def _curve(config: ConfigDict, workdir: Path, metrics: dict, table: dict) -> dict | None:
    """The plot of PUL against u-FID, its points as a table, and how many images they are of.

    None without any point.
    """
    series, rows, biases, counts = {}, [], set(), set()
    for model, curve in metrics["curves"].items():
        kept = artifacts.upstream(workdir, f"unlearn/{model}")["summary"]["kept_step"]
        points = []
        for r in filter(comparison.is_point, curve):
            step, images = r["step"], r.get("images", config.curve.images)
            bias = r.get("u_fid_bias")
            counts.add(images)
            biases |= set() if bias is None else {_bias(bias)}
            pul, u_fid = f"{r['pul']:.1f}", f"{r['u_fid']:.2f}"
            if r.get("pul_interval") is not None:
                pul += " [{:.1f}, {:.1f}]".format(*r["pul_interval"])
            about = f"step {step}: PUL {pul} %, u-FID {u_fid}"
            points.append(Point(r["pul"], r["u_fid"], str(step), about, step == kept))
            rows.append([model, step, pul, u_fid, _bias(bias), images, "yes" * (step == kept)])
        if points:
            series[model] = points
    if not series:
        return None
    original = metrics["models"][ORIGINAL]
    # Measured with as many images as the points, where there are as many.
    own = original.get("at_curve_images", {}).get("retained")
    own = own or {"u_fid": original.get("u_fid"), "images": table[ORIGINAL]["images"]}
    levels = {}
    if own["u_fid"] is not None:
        levels[f"original, retained samples ({own['images']})"] = own["u_fid"]
    points = [point for of_model in series.values() for point in of_model]
    heights = [*(point.y for point in points), *levels.values()]
    x = make_axis("PUL, %: more is forgotten to the right", [point.x for point in points])
    y = make_axis("u-FID: better images below", heights, is_log=True)
    return {
        "plot": _plot("PUL and u-FID at each snapshot", x, y, series, levels),
        "header": ["method", "step", "PUL % [95 %]", "u-FID", "its bias", "images", "kept"],
        "rows": rows,
        "images": " or ".join(map(str, sorted(counts))),
        "biases": ", ".join(sorted(biases)),
    }


def _kept(config: ConfigDict, workdir: Path) -> list[list]:
    """Which step of each method is kept, and why."""
    rows = []
    for model in sample.models(config)[1:]:
        summary = artifacts.upstream(workdir, f"unlearn/{model}")["summary"]
        rows.append(
            [
                model,
                config.methods[model].objective,
                ", ".join(summary["sees"]),
                summary["kept_step"],
                summary["why"],
                summary["stopped"] or "ran to its end",
            ]
        )
    return rows


def _costs(task: tasks.Task) -> tuple[list, list]:
    """Header and rows of what each method cost."""
    rows = []
    for name in sample.models(task.config)[1:]:
        spent = cost.of_method(task, name)
        operations = (spent.updates, spent.replay, spent.curve, spent.total)
        shares = [_number(spent.percent(part), 1) for part in (spent.updates, spent.total)]
        took = artifacts.timings(task.workdir / "unlearn" / name)
        # A stage that was resumed has its last process's total alone.
        seconds = max(took["total"], took["fit"])
        rows.append(
            [name, *(f"{part / 1e9:.4g}" for part in operations), *shares, f"{seconds:.0f}"]
        )
    header = ["method", "updates, GFLOP", "replay", "curve", "in all", "updates, % of training"]
    return [*header, "in all, % of training", "seconds"], rows


def _relearning(config: ConfigDict, workdir: Path) -> dict:
    """Steps until each model shows again what it forgot, and the plot of the rates."""
    section, rows, series = config.relearn, [], {}
    places = {step: place for place, step in enumerate((0, *section.checks))}
    for model in sample.models(config):
        summary = artifacts.upstream(workdir, f"relearn/{model}")["summary"]
        steps, checks = summary["steps"], summary["checks"]
        if model == ORIGINAL:
            steps = "–" if steps is None else f"{'≤ ' * summary['at_most']}{steps} of its training"
        else:
            steps = f"> {section.checks[-1]}" if steps is None else steps
            series[model] = [
                Point(
                    places[check["step"]],
                    100 * check["rate"],
                    "",
                    f"step {check['step']}: {100 * check['rate']:.1f} %",
                )
                for check in checks
            ]
        rates = [f"{100 * check['rate']:.1f} at {check['step']}" for check in checks]
        rows.append([model, steps, ", ".join(rates)])
    rate = 100 * summary["original_rate"]
    levels = {"the original's rate": rate, "half of it": rate / 2}
    heights = [0.0, rate, *(point.y for points in series.values() for point in points)]
    x = make_axis("optimiser steps on forget images", list(places.values()))
    x = x._replace(ticks=[(x.place(place), str(step)) for step, place in places.items()])
    y = make_axis("samples that show it, %", heights)
    plot = _plot("What was forgotten, while it is shown again", x, y, series, levels)
    return {"rows": rows, "plot": plot, "rate": rate, **section.to_dict()}
