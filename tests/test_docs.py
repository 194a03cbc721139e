"""What is published belongs to a command, and stands where it is said to."""

import json
import re
from pathlib import Path

import pytest

from vdu_jax import config as vdu_config
from vdu_jax.parity.components import COMPONENTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "results.md").read_text()
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
FOLDERS = sorted(path.name for path in (ROOT / "docs" / "results").iterdir())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_comparison_has_one_section_with_its_command_and_table(name):
    (section,) = [s for s in SECTIONS if f"results/{name}/" in s]
    commands = (
        f"benchmark --config=configs/benchmark/{name}.py",
        f"run --config=configs/{name}.py",
    )
    assert any(f"vdu {command}" in section for command in commands)
    found = json.loads((ROOT / "docs" / "results" / name / "results.json").read_text())
    models = found.get("models") or (found["summary"] if name.endswith("_methods") else ())
    for model in models:
        assert f"| {model} |" in section, model


def test_the_config_for_the_published_stable_diffusion_is_valid():
    page = (ROOT / "docs" / "stable_diffusion.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], names)
    config = names["get_config"]()
    vdu_config.validate(config)
    exec(re.search(r"^ {6}(config\.benchmark\.targets = .*?^ {6}\})", page, re.S | re.M)[1])
    vdu_config.validate_benchmark(config)
    assert vdu_config.targets(config) == ["grey"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")) + [ROOT / "README.md"], ids=str)
def test_every_link_within_the_project_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_page_of_comparisons_has_each_component_and_no_other():
    """`make parity` writes it; no verdict but "ok" is published."""
    page = (ROOT / "docs" / "parity.md").read_text()
    rows = re.findall(r"^\| (\S+) \|.*\| ok \|$", page, re.MULTILINE)
    assert sorted(rows) == sorted(component.name for component in COMPONENTS)
