"""The table of all models, and what they draw, from the same noise.

report/table.md       the table
report/results.json   its numbers with their intervals, config, versions
report/grid.png       a row for each model: what it draws of some prompts
"""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from vdu_jax.runtime import artifacts, pictures, provenance
from vdu_jax.stages.text_to_image import build, evaluate

# Column -> (kind of prompts, figure, factor): rates in percent.
COLUMNS = {
    "feature %": ("feature", "feature", 100),
    "feature by paraphrase %": ("paraphrase", "feature", 100),
    "feature elsewhere %": ("other", "feature", 100),
    "other attributes right %": ("other", "attribute", 100),
    "the same, held out %": ("held_out", "attribute", 100),
    "object right %": ("other", "object", 100),
    "object right, feature asked %": ("feature", "object", 100),
    "u-FID": ("other", "u_fid", 1),
}
SHOWN = 10  # prompts of a kind in the picture


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    models = evaluate.models(config)
    upstream = [f"evaluate/{model}" for model in models]
    stage = build.stage(config, workdir, "report", (), upstream)
    if not stage.done(overwrite):
        stage.begin()
        measured = {model: evaluate.load(workdir, model) for model in models}
        figures = {model: found for model, (found, _) in measured.items()}
        kept = {
            model: artifacts.upstream(workdir, f"unlearn/{model}")["summary"]
            for model in models[1:]
        }
        results = {
            "models": figures,
            "unlearned": kept,
            "config": config.to_dict(),
            "provenance": provenance.collect(),
        }
        artifacts.write_json(stage.path / "results.json", results)
        artifacts.write_text(stage.path / "table.md", table(figures, kept))
        rows = [row(images) for _, images in measured.values()]
        pictures.save(stage.path / "grid.png", stack(rows))
        stage.finish({})
    results = artifacts.read_json(stage.path / "results.json")
    figures = {model: results["models"][model] for model in models}  # in their order again
    print(table(figures, results["unlearned"]))
    print(f"picture: {stage.path / 'grid.png'}")
    print(json.dumps(numbers(figures)))


def numbers(figures: dict) -> dict[str, dict[str, float | None]]:
    """model -> column -> number, or None where it was not measured."""

    def cell(found: dict, kind: str, what: str, factor: float) -> float | None:
        value = found.get(kind, {}).get(what)
        value = value["value"] if isinstance(value, dict) else value
        return None if value is None else factor * value

    return {
        model: {name: cell(found, *where) for name, where in COLUMNS.items()}
        for model, found in figures.items()
    }


def table(figures: dict, kept: dict) -> str:
    """The Markdown table."""
    head = ["model", *COLUMNS, "step kept", "parameters changed"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for model, cells in numbers(figures).items():
        shown = [
            "–" if v is None else f"{v:.2f}" if n == "u-FID" else f"{v:.1f}"
            for n, v in cells.items()
        ]
        summary = kept.get(model)
        more = [str(summary["kept_step"]), f"{summary['parameters']:,}"] if summary else ["–", "–"]
        lines.append(f"| {' | '.join([model, *shown, *more])} |")
    return "\n".join(lines) + f"\n{note(figures)}"


def note(figures: dict) -> str:
    """Of how many images u-FID is, and its bias; empty if there is none."""
    others = [found["other"] for found in figures.values() if "u_fid" in found.get("other", {})]
    if not others:
        return ""
    images = sorted({found.get("images", found["feature"]["count"]) for found in others})
    biases = sorted({f"{found['u_fid_bias']:.3g}" for found in others if found.get("u_fid_bias")})
    return (
        f"\nu-FID is of {' or '.join(map(str, images))} images a model; compare it only with "
        f"u-FIDs of as many. Its bias, which real images are expected at with as many: "
        f"{' or '.join(biases) or 'not recorded'}.\n"
    )


def row(images: dict[str, np.ndarray]) -> Image.Image:
    """One image each of some prompts with the feature, then of some without."""
    shown = [images["feature"][:SHOWN, 0]]
    if "other" in images:
        others = images["other"]
        places = np.linspace(0, len(others) - 1, min(2 * SHOWN, len(others))).astype(int)
        shown.append(others[places, 0])
    whole = np.concatenate(shown)
    return pictures.grid(whole, columns=len(whole))


def stack(rows: list[Image.Image]) -> Image.Image:
    """Pictures of one size below each other."""
    return pictures.side_by_side(rows, columns=1, gap=4)
