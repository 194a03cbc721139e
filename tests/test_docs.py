"""Pages of docs/: their tables, commands and links."""

import json
import re
from pathlib import Path

import include_tables
import pytest

from vdu_jax import config as vdu_config
from vdu_jax.parity.components import COMPONENTS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PUBLISHED = sorted(path.name for path in RESULTS.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_run_has_a_page_with_its_command_and_all_its_models(name):
    page = (RESULTS / f"{name}.md").read_text()
    commands = (
        f"benchmark --config=configs/benchmark/{name}.py",
        f"run --config=configs/{name}.py",
    )
    assert any(f"vdu {command}" in page for command in commands)
    assert f"]({name}.md)" in (RESULTS / "index.md").read_text()
    file = next(path for path in ("results.json", "table.json") if (RESULTS / name / path).exists())
    found = json.loads((RESULTS / name / file).read_text())
    for model in found.get("models") or found.get("summary") or found:
        assert f"| {model} |" in page, model


def test_the_tables_of_all_pages_are_those_of_their_files():
    include_tables.main(["--check"])


TABLE = """| method | PUL % | u-FID |
| --- | --- | --- |
| vdu | 74.2 | 8.17 |
| retrain | 96.2 | 0.76 |

| u-FID at equal PUL | 80 % |
| --- | --- |
| vdu | 6.23 |
"""
PAGE = """# Digits

<!-- table: {}-->
an older table
<!-- end of table -->
"""


@pytest.fixture
def results(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "table.md").write_text(TABLE)
    models = {"plain": {"pul": 90.08, "u_fid": 15.308, "steps": 30}}
    (tmp_path / "digits" / "table.json").write_text(json.dumps(models))
    return tmp_path


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ("method | u-FID\ndigits/table.md\n", "| vdu | 8.17 |\n| retrain | 0.76 |"),
        ("method | u-FID\ndigits/table.md: retrain\n", "| --- | --- |\n| retrain | 0.76 |"),
        ("u-FID at equal PUL | 80 %\ndigits/table.md\n", "| vdu | 6.23 |"),
        (
            "data | method | PUL %\n[8 × 8](digits.md) = digits/table.md: retrain, vdu\n",
            "| [8 × 8](digits.md) | retrain | 96.2 |\n|  | vdu | 74.2 |",
        ),
        (
            "model | PUL % = pul .1f | u-FID = u_fid .2f | steps\ndigits/table.json\n",
            "| model | PUL % | u-FID | steps |\n| --- | --- | --- | --- |\n"
            "| plain | 90.1 | 15.31 | 30 |",
        ),
    ],
)
def test_a_page_is_checked_and_written_from_the_files_that_it_names(results, described, expected):
    page = results / "digits.md"
    page.write_text(PAGE.format(described))
    with pytest.raises(SystemExit, match=r"digits\.md"):
        include_tables.main(["--check"], results)
    assert "an older table" in page.read_text()
    include_tables.main([], results)
    assert f"{expected}\n\n<!-- end of table -->" in page.read_text()
    assert "an older table" not in page.read_text()
    include_tables.main(["--check"], results)


@pytest.mark.parametrize(
    ("described", "named"),
    [
        ("method | KID\ndigits/table.md\n", r"all of the columns method \| KID"),
        ("method | u-FID\ndigits/table.md: siss\n", "no row siss"),
    ],
)
def test_a_column_or_row_that_the_file_lacks_is_refused(results, described, named):
    (results / "digits.md").write_text(PAGE.format(described))
    with pytest.raises(SystemExit, match=named):
        include_tables.main([], results)


def test_a_table_without_an_end_is_refused(results):
    page = PAGE.format("method | u-FID\ndigits/table.md\n")
    (results / "digits.md").write_text(page.replace("<!-- end of table -->", "") + page)
    with pytest.raises(SystemExit, match=r"digits\.md: .*end of table"):
        include_tables.main([], results)


def test_the_guide_s_target_of_stable_diffusion_is_the_one_that_is_compared():
    page = (ROOT / "docs" / "guides" / "text_to_image.md").read_text()
    whole, target = re.findall(r"```python\n(.*?)```", page, re.S)
    names = {}
    exec(whole, names)
    config = names["get_config"]()
    vdu_config.validate(config)
    exec(target, {"config": config})
    vdu_config.validate_benchmark(config)
    assert vdu_config.targets(config) == ["grey"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.md")) + [ROOT / "README.md"], ids=str)
def test_every_link_within_the_project_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_page_of_comparisons_has_each_component_and_no_other():
    """`make parity` writes it; no verdict but "ok" is published."""
    page = (ROOT / "docs" / "parity.md").read_text()
    rows = re.findall(r"^\| (\S+) \|.*\| ok \|$", page, re.MULTILINE)
    assert sorted(rows) == sorted(component.name for component in COMPONENTS)
