"""The notebooks of examples/ run from the first cell to the last, and do what they say."""

import json
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def value_after(name, expression, folder):
    """An expression's value, by way of JSON, after a notebook has run in a folder."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    last = nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({expression}))")
    notebook.cells.append(last)
    nbclient.NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": str(folder)}}
    ).execute()
    (output,) = last["outputs"]
    return json.loads(output["text"])


def test_the_functional_core_unlearns_the_threes(tmp_path):
    counts = value_after(
        "unlearn_in_a_notebook.ipynb", "{m: c.tolist() for m, c in counts.items()}", tmp_path
    )
    original, vdu, retained_score = counts.values()
    assert list(counts) == ["original", "vdu", "retained_score"]
    assert original[3] > 30
    assert vdu[3] < 0.75 * original[3] and retained_score[3] < 0.25 * original[3]
    # The other digits are still drawn, about as often as before.
    for digit in (0, 1, 2, 4):
        assert retained_score[digit] > original[digit] / 2


def test_a_model_of_diffusers_is_imported_unlearned_and_exported(tmp_path):
    expression = "{'threes': threes, 'files': [str(p) for p in Path('unlearned_model').rglob('*')]}"
    found = value_after("your_own_model.ipynb", expression, tmp_path)
    threes = found["threes"]
    assert threes["original"] > 50 and threes["retained_score"] < threes["original"] / 3
    assert "unlearned_model/unet/diffusion_pytorch_model.safetensors" in found["files"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_has_its_outputs_and_leads_somewhere(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert all(output.output_type != "error" for output in outputs)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert f"/blob/main/examples/{path.name})" in text  # of the badge
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (EXAMPLES / target).exists(), target
