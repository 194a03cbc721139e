"""The published files of a benchmark: results.json, a table, a CSV file, a plot and grids.

results.json         config, tuned settings, every cell, mean ± standard error, and the versions
                     that cells were made with ("provenance" of a cell is an index in that list)
table.md             a row for each method
cells.csv            a row for each cell
tradeoff.png         PUL against u-FID over the steps, all methods
grids/class-<c>.png  images of every model from the same noise, with the models' names
"""

import copy
import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax.config import ORIGINAL
from vdu_jax.metrics import pul, quality, tradeoff
from vdu_jax.runtime import artifacts, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = (80, 90, 95)  # PUL at which methods are compared by u-FID
UNKNOWN = "not recorded"


def columns(cells: Mapping, own_columns: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """The columns of the table.

    Args:
      cells: name of a cell -> its figures.
      own_columns: the task's columns, see `tasks.Task.columns`.

    Returns:
      Heading -> key of a cell's figures, digits after the point.
    """
    metrics = quality.measured(cells.values())
    shown = {
        "PUL %": ("pul", 1),
        "u-FID": ("u_fid", 2),
        "u-FID / retrain's": ("u_fid_ratio", 2),
        "u-FID at D_r's shares": ("u_fid_at_shares", 2),
        **{metric.head: (metric.column, metric.digits) for metric in metrics},
        "TV": ("tv_to_retrained", 3),
        "relearning steps": ("relearning_steps", 0),
        "step kept": ("kept_step", 0),
        "% of training": ("percent_of_training", 2),
        "% in all": ("percent_in_all", 1),
        **{head: (key, 1) for key, head in own_columns.items()},
    }
    # Some are missing in comparisons of earlier versions.
    there = {key for row in cells.values() for key in row}
    return {head: column for head, column in shown.items() if column[0] in there}


def settings(config: ConfigDict) -> dict:
    """A config as it is published, without paths and devices."""
    published = config.to_dict()
    del published["parallel"]
    for key in ("dir", "manual_dir"):
        del published["data"][key]
    if published["model"].get("num_class_embeds") == 0:  # unconditional
        del published["condition"]
    published["methods"] = {
        name: vdu_config.section_inputs("method", entry)
        for name, entry in published["methods"].items()
    }
    published = {name: vdu_config.section_inputs(name, part) for name, part in published.items()}
    return json.loads(artifacts.dumps(published))


def complete(published: Mapping) -> dict:
    """The config of a results.json; settings that did not exist then have their defaults."""
    defaults = vdu_config.default(published["model"].get("name", "unet")).to_dict()
    sections = {
        section: defaults.get(section, {}) | dict(values) for section, values in published.items()
    }
    methods = {m: complete_method(entry).to_dict() for m, entry in published["methods"].items()}
    return sections | {"methods": methods}


def complete_method(published: Mapping) -> ConfigDict:
    """The entry of `config.methods` in a results.json, completed as by `complete`."""
    defaults = vdu_config.method(published["objective"]).to_dict()
    params = defaults["params"] | dict(published["params"])
    return ConfigDict(defaults | dict(published) | {"params": params})


def results(
    config: ConfigDict,
    tuned: Mapping,
    rows: Mapping,
    onto: Mapping,
    own_columns: Mapping[str, str],
) -> dict:
    """The contents of results.json.

    Args:
      config: all settings.
      tuned: method -> record of its tuning, see `benchmark.tuning`.
      rows: cell (`benchmark.Cell`) -> figures, see `benchmark.figures`.
      onto: contents of an earlier results.json to extend, or {"cells": {}}.
      own_columns: the task's columns, see `tasks.Task.columns`.
    """
    versions, cells = list(onto.get("provenance", ())), copy.deepcopy(onto["cells"])
    for cell, row in rows.items():
        row = dict(row)
        made = row.pop("provenance")
        if made not in versions:
            versions.append(made)
        original = row.pop("original")
        row["provenance"] = versions.index(made)
        cells[str(cell)] = row
        cells.setdefault(f"{ORIGINAL}/{cell.forget}/{cell.seed}", original)
    cells = dict(sorted(cells.items()))
    methods = config.methods.to_dict()
    _compare_with_retrained(cells, methods)
    metrics = quality.measured(cells.values())
    for row in cells.values():
        for metric in metrics:
            if metric.scale != 1:
                value = quality.value_of(row.get(metric.key))
                row[metric.column] = None if value is None else metric.scale * value
        row["relearning_steps"] = row.get("relearning", {}).get("steps")
        for which in ("of_training", "in_all"):
            if f"share_{which}" in row:
                row[f"percent_{which}"] = 100 * row[f"share_{which}"]
    _at_equal_forgetting(cells, methods)
    return {
        "config": settings(config),
        "provenance": versions,
        "tuned": dict(tuned),
        "cells": cells,
        "summary": summarise(cells, own_columns),
        # Pairs, because a file sorts the keys of a mapping and columns have an order.
        **({"columns": [list(pair) for pair in own_columns.items()]} if own_columns else {}),
    }


def image_count(model: str, figures: Mapping, forget: Sequence[int]) -> int | None:
    """The number of images that a model's metrics of quality are computed from.

    Args:
      model: "original" or the name of a method.
      figures: its figures. Those of earlier versions lack "images", and the histogram is counted.
      forget: the forget classes.

    Returns:
      The number, or None if it is not recorded.
    """
    if "images" in figures or "histogram" not in figures:
        return figures.get("images")
    histogram = np.array(figures["histogram"])
    return int(histogram.sum() - (histogram[list(forget)].sum() if model == ORIGINAL else 0))


def _split(cell: str) -> tuple[str, str, str]:
    method, forget, seed = cell.rsplit("/", 2)
    return method, forget, seed


def _classes(forget: str) -> tuple[int, ...]:
    """The classes that a cell forgets; empty for a target."""
    return (int(forget),) if forget.isdigit() else ()


def _is_retrained(methods: Mapping, name: str) -> bool:
    return methods[name]["objective"] == "retrain"


def _compare_with_retrained(cells: dict, methods: Mapping) -> None:
    """Add total variation and u-FID ratio to the retrained model of the same class.

    That is the one of the same seed if it exists, or else the mean over all seeds that exist.
    """
    gold = next((m for m in methods if _is_retrained(methods, m)), None)
    for name, row in cells.items():
        _, forget, seed = _split(name)
        same = cells.get(f"{gold}/{forget}/{seed}")
        there = [r for n, r in cells.items() if _split(n)[:2] == (gold, forget)]
        row["tv_to_retrained"] = row["u_fid_ratio"] = None
        if not there:
            continue
        if row.get("u_fid") is not None:
            golds = [r["u_fid"] for r in ([same] if same else there)]
            row["u_fid_ratio"] = row["u_fid"] / float(np.mean(golds))
        if "histogram" not in row:
            continue
        histogram = np.sum([r["histogram"] for r in ([same] if same else there)], axis=0)
        row["tv_to_retrained"] = pul.total_variation(np.array(row["histogram"]), histogram)


def _at_equal_forgetting(cells: dict, methods: Mapping) -> None:
    """Add the u-FID at which the curve reaches each of `LEVELS`; a retrained model has no curve.

    The curve starts at the original, measured with as many images as the other points have, or with
    all images in files of earlier versions.
    """
    for name, row in cells.items():
        method, forget, seed = _split(name)
        if method == ORIGINAL or _is_retrained(methods, method):
            continue
        original = cells[f"{ORIGINAL}/{forget}/{seed}"]
        if original.get("u_fid") is None:
            continue
        start = original.get("at_curve_images", {}).get("all") or {"u_fid": original["u_fid_all"]}
        curve = [(0.0, start["u_fid"])]
        curve += [(r["pul"], r["u_fid"]) for r in row["curve"] if is_point(r)]
        row["u_fid_at"] = {str(level): tradeoff.u_fid_at(curve, level) for level in LEVELS}


def is_point(row: Mapping) -> bool:
    """Whether a row of a curve has both PUL and u-FID."""
    return row["pul"] is not None and row.get("u_fid") is not None


def summarise(cells: Mapping, own_columns: Mapping[str, str] | None = None) -> dict:
    """Mean and standard error of every figure over the cells of each method.

    Args:
      cells: name of a cell -> its figures.
      own_columns: the task's columns, see `tasks.Task.columns`.

    Returns:
      Method -> figure -> {"mean", "standard_error", "count"}, over the cells that have the figure.
    """
    keys = [key for key, _ in columns(cells, own_columns or {}).values()]
    keys += ["confidence", "u_fid_all"]
    summary: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(_split(name)[0] for name in cells):
        rows = [row for name, row in cells.items() if _split(name)[0] == method]
        flat = [
            row | {f"u_fid_at_{k}": v for k, v in row.get("u_fid_at", {}).items()} for row in rows
        ]
        summary[method] = {"cells": len(rows)}
        for key in [*keys, *(f"u_fid_at_{level}" for level in LEVELS)]:
            measured = [quality.value_of(row.get(key)) for row in flat]
            values = [value for value in measured if value is not None]
            if values:
                summary[method][key] = tradeoff.spread(values)._asdict()
    return summary


def order(published: Mapping) -> list[str]:
    """Names of the models: the original, retrained models, then the methods by their u-FID."""
    methods, summary = published["config"]["methods"], published["summary"]

    def rank(name: str) -> tuple[int, float]:
        if name == ORIGINAL:
            return (0, 0.0)
        return (
            1 if _is_retrained(methods, name) else 2,
            summary[name].get("u_fid", {"mean": math.inf})["mean"],
        )

    return sorted(summary, key=rank)


def table(published: Mapping) -> str:
    """The table in Markdown: mean ± standard error over classes and seeds."""
    summary, lines = published["summary"], []

    def line(cells: Iterable[str]) -> None:
        lines.append("| " + " | ".join(cells) + " |")

    shown = columns(published["cells"], dict(published.get("columns", ())))
    header = ["method", "sees", "cells", *shown]
    line(header)
    line(["---"] * len(header))
    for name in order(published):
        figures = summary[name]
        row = [name, _sees(published, name), str(figures["cells"])]
        for key, digits in shown.values():
            row.append(_shown(figures.get(key), digits, figures["cells"]))
        line(row)
    lines.append("")
    line(["u-FID at equal PUL", *(f"{level} %" for level in LEVELS)])
    line(["---"] * (1 + len(LEVELS)))
    for name in order(published)[1:]:
        if _is_retrained(published["config"]["methods"], name):
            continue
        values = [summary[name].get(f"u_fid_at_{level}") for level in LEVELS]
        line([name, *(_shown(value, 2, summary[name]["cells"]) for value in values)])
    lines += ["", *counts(published)]
    return "\n".join(lines) + "\n"


def counts(published: Mapping) -> list[str]:
    """The paragraphs below the table: numbers of cells, seeds and images, and the bias of u-FID."""
    biases: dict[str, list] = {ORIGINAL: [], "": [], "curve": []}
    points = []
    for name, row in published["cells"].items():
        method, _, _ = _split(name)
        biases[ORIGINAL if method == ORIGINAL else ""].append(row.get("u_fid_bias"))
        for point in row.get("curve", ()):
            points.append(point.get("images", published["config"]["curve"]["images"]))
            biases["curve"].append(point.get("u_fid_bias"))
    classes, seeds = ({_split(name)[i] for name in published["cells"]} for i in (1, 2))
    shown = {kind: _span(values, ".3g") for kind, values in biases.items()}
    bias = f"{shown['']} (original {shown[ORIGINAL]}, curves {shown['curve']})"
    if set(shown.values()) == {UNKNOWN}:
        bias = UNKNOWN
    names = [metric.name for metric in quality.measured(published["cells"].values())]
    listed = quality.listed(["u-FID", *names])
    retained = "that the classifier puts into retained classes"
    if published["config"]["benchmark"].get("targets"):
        retained = "that are asked for with other things than the one to be forgotten"
    return [
        f"Mean ± standard error over {_several(len(classes), 'class', 'classes')} and "
        f"{_several(len(seeds), 'training seed', 'training seeds')} together; a single value has "
        "none.",
        "",
        f"{listed} are of {_span(_images(published), 'd')} images a model, "
        f"the original's of the {_span(_images(published, True), 'd')} {retained}; "
        f"u-FID at equal PUL and the curves are of {_span(points, 'd')} "
        "images a point. Compare only figures of as many images. The bias of u-FID, which real "
        f"images are expected at with as many: {bias}.",
    ]


def _images(published: Mapping, of_original: bool = False) -> list[int | None]:
    """The number of images of the original, or of each other model, in every cell."""
    counts = []
    for name, row in published["cells"].items():
        method, forget, _ = _split(name)
        if (method == ORIGINAL) == of_original:
            counts.append(image_count(method, row, _classes(forget)))
    return counts


def _several(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _span(values: Iterable, form: str) -> str:
    """The value if all are equal, or "SMALLEST to LARGEST"; None is left out."""
    values = [value for value in values if value is not None]
    if not values:
        return UNKNOWN
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return low if low == high else f"{low} to {high}"


def _sees(published: Mapping, name: str) -> str:
    rows = (row for cell, row in published["cells"].items() if _split(cell)[0] == name)
    return ", ".join(next(rows).get("sees", [])) or "–"


def _shown(value: Mapping | None, digits: int, cells: int) -> str:
    """Mean ± standard error; if not all cells have a value, their number in brackets."""
    if value is None:
        return "–"
    text = f"{value['mean']:.{digits}f}"
    if value["standard_error"] is not None:
        text += f" ± {value['standard_error']:.{digits}f}"
    return text if value["count"] == cells else f"{text} ({value['count']} of {cells})"


def csv_text(published: Mapping) -> str:
    """The contents of cells.csv: a row for each cell."""
    buffer = io.StringIO()
    shown = columns(published["cells"], dict(published.get("columns", ())))
    keys = [key for key, _ in shown.values()] + ["confidence", "steps", "stopped"]
    keys += ["images", "u_fid_bias"]
    levels = [str(level) for level in LEVELS]
    writer = csv.writer(buffer, lineterminator="\n")
    first = ["method", "class", "seed", "pul_low", "pul_high"]
    writer.writerow([*first, *keys, *(f"u_fid_at_{k}" for k in levels)])
    for name, row in published["cells"].items():
        method, forget, _ = _split(name)
        row = row | {"images": image_count(method, row, _classes(forget))}
        at = row.get("u_fid_at", {})
        writer.writerow(
            [*_split(name), *row["pul_interval"], *(quality.value_of(row.get(k)) for k in keys)]
            + [at.get(k) for k in levels]
        )
    return buffer.getvalue()


def write(published: Mapping, folder: Path, grids: Mapping) -> None:
    """Write the table, the CSV file, the plot and the grids.

    Args:
      published: contents of results.json.
      folder: the benchmark's folder.
      grids: class or target -> model -> its first images (n, H, W, C) uint8.
    """
    artifacts.write_text(folder / "table.md", table(published))
    artifacts.write_text(folder / "cells.csv", csv_text(published))
    _save(plot(published), folder / "tradeoff.png")
    for forget, models in grids.items():
        names = [name for name in order(published) if name in models]
        picture = pictures.labelled({name: models[name] for name in names})
        pictures.save(folder / "grids" / f"class-{forget}.png", picture)


def _save(figure: "Figure", path: Path) -> None:
    with artifacts.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def plot(published: Mapping) -> "Figure":
    """Plot PUL against u-FID over the steps; a point is a mean over the cells that reached it."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    pairs = [colormaps["tab20"](i)[:3] for i in range(20)]  # a dark and a light one of each colour
    shades = (*pairs[::2], *pairs[1::2])
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes, summary = figure.subplots(), published["summary"]
    names = order(published)
    for index, name in enumerate(n for n in names if n != ORIGINAL):
        colour, marker = shades[index % 20], "os^Dv"[index // 10 % 5]
        kept = summary[name]
        if not {"pul", "u_fid"} <= kept.keys():
            continue
        axes.errorbar(
            kept["pul"]["mean"],
            kept["u_fid"]["mean"],
            xerr=kept["pul"]["standard_error"],
            yerr=kept["u_fid"]["standard_error"],
            fmt="*PX"[index // 20 % 3],
            ms=15,
            color=colour,
            mec="black",
            zorder=3,
            label=name,
        )
        points = _mean_curve(published, name)
        if points:
            axes.plot(
                *zip(*points, strict=True), marker=marker, ms=4, lw=1, color=colour, alpha=0.7
            )
    own = summary[ORIGINAL].get("u_fid")  # None if it makes no image of a retained class
    if own:
        label = f"original, retained classes:\n{_span(_images(published, True), 'd')} images"
        axes.axhline(own["mean"], color="grey", ls="--", lw=1, label=label)
    # A PUL below -50 % belongs to a ruined model, which makes far more of the class.
    axes.set_xlim(max(axes.get_xlim()[0], -50), 105)
    axes.set_yscale("log")
    axes.set_xlabel("PUL (%): more is forgotten to the right")
    axes.set_ylabel("u-FID: better images below")
    axes.grid(alpha=0.3, which="both")
    config = published["config"]
    axes.set_title(
        f"The kept model, of {config['evaluate']['images']} images, and (lines) every snapshot, of "
        f"{config['curve']['images']} each:\nfewer images have a higher u-FID",
        fontsize=9,
    )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _mean_curve(published: Mapping, name: str) -> list[tuple[float, float]]:
    points: dict[int, list] = {}
    for cell, row in published["cells"].items():
        if _split(cell)[0] == name:
            for r in row["curve"]:
                if is_point(r):
                    points.setdefault(r["step"], []).append((r["pul"], r["u_fid"]))
    return [tuple(np.mean(points[step], axis=0)) for step in sorted(points)]
