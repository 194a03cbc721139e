"""One page that shows what was unlearned, and a table on standard output.

report/report.html   one file, no network: grids, curve, figures, posterior, settings, versions
report/samples.png   the grids in a row
report/table.json    the table
"""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import tasks
from vdu_jax.metrics import quality
from vdu_jax.runtime import artifacts, pictures
from vdu_jax.stages import comparison, evaluate, sample
from vdu_jax.tasks import ORIGINAL

GRID = 60
NETWORKS = {"classifier": "the classifier", "inception": "Inception-v3"}

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto;
       padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd }
.table { overflow-x: auto } table { border-collapse: collapse }
td, th { padding: .25em .8em; text-align: right } td { white-space: nowrap }
td:first-child, th:first-child { text-align: left } th { border-bottom: 2px solid #888 }
tr:nth-child(even) td { background: #f6f6f6 } .grids { display: flex; flex-wrap: wrap; gap: 1.2em }
figure { margin: 0 } figcaption { font-weight: 600 } img { max-width: 100%; image-rendering: auto }
.grids img { width: 330px; image-rendering: pixelated } pre { background: #f6f6f6; padding: 1em;
overflow: auto; font-size: 12px } .note { color: #666 }
"""


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
        artifacts.write_text(path, page(task, table, metrics))
        pictures.save(
            stage.path / "samples.png", pictures.side_by_side([grid(task, m) for m in models])
        )
        artifacts.write_json(stage.path / "table.json", table)
        stage.finish({})
    stored = artifacts.read_json(stage.path / "table.json")
    table = {model: stored[model] for model in models}
    show(table, path, task)


def grid(task: tasks.Task, model: str):
    """The first samples of a model."""
    return pictures.grid(task.shown(sample.load(task.workdir, model), GRID))


def show(table: dict, path: Path, task: tasks.Task) -> None:
    """Print the table, the report's place, and the table as one JSON line."""
    columns = task.columns
    heads = ["PUL %", "u-FID", "bias", "images", "steps", *columns.values()]
    widths = [max(9, len(head) + 2) for head in heads]

    def line(cells):
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


def page(task: tasks.Task, table: dict, metrics: dict) -> str:
    """The whole report as HTML."""
    config, workdir = task.config, task.workdir
    has_posterior = vdu_config.needs_posterior(config)
    sections = [
        ("Samples from the same noise", _grids(task)),
        ("Figures", _figures(task, metrics, table)),
        ("Forgetting against quality over the steps", _curve(config, workdir, metrics, table)),
        ("Which step is kept", _kept(config, workdir)),
        ("Classes of the samples", _histogram(metrics, task.class_names)),
        ("Relearning", _relearning(config, workdir) if config.relearn.images else ""),
        ("Replay", _replay(workdir, metrics)),
        ("Posterior", _posterior(workdir) if has_posterior else ""),
        ("Settings", _settings(config, artifacts.upstream(workdir, "replay"))),
    ]
    body = "".join(f"<h2>{title}</h2>\n{text}\n" for title, text in sections if text)
    title = f"Unlearning {html.escape(task.subject)} from {html.escape(config.data.name)}"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style><h1>{title}</h1>\n{body}</html>\n"
    )


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


def _image(png: bytes, title: str) -> str:
    data = base64.b64encode(png).decode()
    title = html.escape(title)
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f"<img alt='{title}' src='data:image/png;base64,{data}'></figure>"
    )


def _rows(header: list[str], rows: list[list]) -> str:
    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    lines = line("th", header) + "".join(line("td", row) for row in rows)
    return f"<div class='table'><table>{lines}</table></div>"


def _grids(task: tasks.Task) -> str:
    figures = [
        _image(pictures.png_bytes(grid(task, model)), model) for model in sample.models(task.config)
    ]
    return (
        f"<div class='grids'>{''.join(figures)}</div><p class='note'>The same place in each grid "
        "starts from the same noise.</p>"
    )


def _figures(task: tasks.Task, metrics: dict, table: dict) -> str:
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
    about = _about_quality(metrics) if has_quality else ""
    note = f"<p class='note'>{metrics['images']} images a model.{about}</p>"
    return _rows(header, rows) + note + (_own_columns(task, metrics) if task.columns else "")


def _own_columns(task: tasks.Task, metrics: dict) -> str:
    """The table of the columns that the task adds."""
    rows = [
        [model, *map(_with_interval, task.column_values(figures).values())]
        for model, figures in metrics["models"].items()
    ]
    return _rows(["model", *task.columns.values()], rows) + (
        f"<p class='note'>{task.about_columns} In brackets: the interval of 95 %, and the number "
        "of images.</p>"
    )


def _about_quality(metrics: dict) -> str:
    """What u-FID and the other metrics of quality are, and are of."""
    original, reference = metrics["models"][ORIGINAL], metrics.get("reference")
    also, sizes, against, count = [], "", "", ""
    if reference:  # files of an earlier version do not say
        sizes = f" ({reference['images']} images)"
        against = f" {reference['compared']} of"
        count = f" for {metrics['held_out_images']} of them" if "u_fid_held_out" in metrics else ""
    if "u_fid_all" in original:
        also.append(f"u-FID of all its samples: {_number(original['u_fid_all'], 2)}")
    if "u_fid_held_out" in metrics:
        held_out = _number(metrics["u_fid_held_out"], 2)
        also.append(f"of held-out real images: {held_out}{count}")
    also = f" ({'; '.join(also)})" if also else ""
    accuracy = metrics.get("classifier", {}).get("accuracy")
    measured = quality.measured(metrics["models"].values())
    others = [f"{m.name}{f' ({m.about})' if m.about else ''}" for m in measured]
    return (
        f" u-FID is the Fréchet distance to the retained training images{sizes}; "
        f"{quality.listed(others)} are taken against{against} them, all "
        f"in {NETWORKS[metrics['features']]}'s features. For the original they are those of its "
        f"samples of what is to stay{also}. u-FID is biased "
        f"upwards, the more the fewer images there are: its bias is what real images are expected "
        f"at with as many. The others depend on the number of images, too, so compare only figures "
        f"of as many images."
        + (
            " u-FID at D_r's shares is that of the images reweighted to the shares of the classes "
            "in D_r: what it leaves is due to the pictures, not to how often a class is drawn."
            if "u_fid_at_shares" in original
            else ""
        )
        + (
            f" The classifier gets {100 * accuracy:.1f} % of the held-out images right."
            if accuracy is not None
            else ""
        )
    )


def _with_interval(figure: float | Mapping | None) -> str:
    """A figure in percent, with its interval and the number of images if it has them."""
    if not isinstance(figure, Mapping):
        return _number(figure, 2)
    return f"{figure['value']:.1f} [{figure['low']:.1f}, {figure['high']:.1f}] ({figure['count']})"


def _curve(config: ConfigDict, workdir: Path, metrics: dict, table: dict) -> str:
    from matplotlib.figure import Figure

    curves = {
        model: list(filter(comparison.is_point, rows)) for model, rows in metrics["curves"].items()
    }
    if not any(curves.values()):
        return ""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes, biases = figure.subplots(), set()
    for index, (model, points) in enumerate(curves.items()):
        biases |= {_bias(r["u_fid_bias"]) for r in points if r.get("u_fid_bias") is not None}
        axes.plot(
            [r["pul"] for r in points],
            [r["u_fid"] for r in points],
            marker="o",
            color=f"C{index}",
            label=model,
        )
        for r in points:
            axes.annotate(
                str(r["step"]),
                (r["pul"], r["u_fid"]),
                textcoords="offset points",
                xytext=(4, 4),
                fontsize=7,
            )
        kept = artifacts.upstream(workdir, f"unlearn/{model}")["summary"]["kept_step"]
        chosen = next((r for r in points if r["step"] == kept), None)
        if chosen:
            axes.plot(chosen["pul"], chosen["u_fid"], "*", ms=16, color=f"C{index}", mec="black")
    original = metrics["models"][ORIGINAL]
    # Of as many images as the points, where there are as many.
    own = original.get("at_curve_images", {}).get("retained")
    own = own or {"u_fid": original.get("u_fid"), "images": table[ORIGINAL]["images"]}
    if own["u_fid"] is not None:
        label = f"original, of what is to stay, {own['images']} images"
        axes.axhline(own["u_fid"], color="grey", ls="--", lw=1, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("PUL (%): more is forgotten to the right")
    axes.set_ylabel("u-FID: better images below")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    counts = {r.get("images", config.curve.images) for points in curves.values() for r in points}
    images = " or ".join(map(str, sorted(counts)))
    bias = f"; the bias of a point's is {', '.join(sorted(biases))}" if biases else ""
    return _image(buffer.getvalue(), "PUL and u-FID at each snapshot; the star is kept") + (
        f"<p class='note'>Numbers are optimiser steps; {images} images a point, so do "
        f"not compare with the table's u-FID{bias}.</p>"
    )


def _kept(config: ConfigDict, workdir: Path) -> str:
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
    note = (
        "<p class='note'>The rule sees the forget images and the model alone; it estimates PUL "
        "without the evaluation's classifier.</p>"
    )
    return _rows(["method", "objective", "sees", "step", "because", "guard"], rows) + note


def _histogram(metrics: dict, names: Sequence[str]) -> str:
    if not all("histogram" in m for m in metrics["models"].values()):
        return ""
    if len(names) > 20:
        return "<p class='note'>In evaluate/metrics.json.</p>"
    rows = [[model, *m["histogram"]] for model, m in metrics["models"].items()]
    return _rows(["model", *names], rows)


def _relearning(config: ConfigDict, workdir: Path) -> str:
    section, rows = config.relearn, []
    for model in sample.models(config):
        summary = artifacts.upstream(workdir, f"relearn/{model}")["summary"]
        steps = summary["steps"]
        if model == ORIGINAL:
            steps = "–" if steps is None else f"{'≤ ' * summary['at_most']}{steps} of its training"
        elif steps is None:
            steps = f"> {section.checks[-1]}"
        rates = [f"{100 * check['rate']:.1f} at {check['step']}" for check in summary["checks"]]
        rows.append([model, steps, ", ".join(rates)])
    return _rows(["model", "steps", "forget class % at the checks"], rows) + (
        f"<p class='note'>Optimiser steps on {section.forget_images} forget images (or all, if "
        f"there are fewer) until the forget class is back at half the original's "
        f"{100 * summary['original_rate']:.1f} %: the first check that finds it; "
        f"{section.images} images a check. Forgetting that returns at once was hiding.</p>"
    )


def _replay(workdir: Path, metrics: dict) -> str:
    summary = artifacts.upstream(workdir, "replay")["summary"]
    text = f"{summary['images']} images were drawn from the original model"
    if "recall" in summary:
        detected = summary["removed_by_detector"]
        text += (
            f" and {summary['removed']} removed as forget-like: {detected} by a detector learned "
            f"from {summary['forget_images']} forget images and the model alone (it recognises "
            f"{100 * summary['recall']:.0f} % of forget images that it did not see), and "
            f"{summary['removed'] - detected} more as their neighbours"
        )
    if counts := metrics.get("replay"):
        text += (
            f". By the evaluation's classifier {counts['removed_rightly']} were removed rightly, "
            f"{counts['removed_wrongly']} wrongly, and {counts['left_in']} were left in"
        )
    return f"<p>{text}.</p>"


def _posterior(workdir: Path) -> str:
    summary = artifacts.upstream(workdir, "posterior")["summary"]
    layers = artifacts.read_json(workdir / "posterior" / "layers.json")
    columns = ["name", "size", "rms_mean", "std_p05", "std_median", "std_p95"]
    rows = [
        [layer[c] if isinstance(layer[c], int | str) else f"{layer[c]:.2e}" for c in columns]
        for layer in layers
    ]
    return (
        f"<p>{summary['about']}; median variance "
        f"{summary['median_variance']:.2e}, floor {summary['floor']:.2e} "
        f"({100 * summary['fraction_floored']:.0f} % of the parameters).</p>"
        f"<details><summary>{len(rows)} tensors</summary>{_rows(columns, rows)}</details>"
    )


def _settings(config: ConfigDict, made: dict) -> str:
    settings = html.escape(artifacts.dumps(config.to_dict()))
    provenance = html.escape(artifacts.dumps(made["provenance"]))
    return (
        "<p>Seeds stand in the settings: <code>train.seed</code>, <code>train.init_seed</code>, "
        "<code>replay.seed</code>, <code>curve.seed</code>, <code>evaluate.seed</code>, "
        "<code>relearn.seed</code>.</p>"
        f"<details open><summary>versions and commit</summary><pre>{provenance}</pre></details>"
        f"<details><summary>full config</summary><pre>{settings}</pre></details>"
    )
