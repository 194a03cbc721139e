"""The documentation as a site: generated pages, navigation, guides and their code.

MkDocs is not needed: the generators are docs/generate.py.
"""

import re
from pathlib import Path

import generate
import pytest
import yaml

from vdu_jax import config as vdu_config
from vdu_jax import objectives
from vdu_jax.cli import commands
from vdu_jax.models import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
PAGES = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "launch" / "README.md"]
ROW = re.compile(r"^\| `([^`]+)` \| (.*?) \| (.*) \|$", re.M)


GENERATED = generate.pages()


@pytest.mark.parametrize("path", GENERATED)
def test_a_generated_page_is_the_one_in_the_repository(path):
    assert (DOCS / path).read_text() == GENERATED[path], "run: python docs/generate.py"


def keys(config, prefix=""):
    for name, value in config.items():
        section = hasattr(value, "items") and name not in vdu_config.USER_KEYED_SECTIONS
        if section and f"{prefix}{name}" not in vdu_config.USER_KEYED_SECTIONS:
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("architecture", [*registry.ARCHITECTURES, vdu_config.TEXT_TO_IMAGE])
def test_every_setting_is_listed_with_a_meaning(architecture):
    kind = "text_to_image" if architecture == vdu_config.TEXT_TO_IMAGE else "images"
    rows = {key: text for key, _, text in ROW.findall(generate.settings_page(kind))}
    config = vdu_config.default(architecture).to_dict()
    del config["methods"]
    wanted = {*keys(config)} | {
        key for key in keys(vdu_config.method("vdu").to_dict(), "methods.NAME.")
        if ".params." not in key
    }  # fmt: skip
    assert not wanted - rows.keys()
    assert not [key for key in wanted if not re.search(r"\w\w", rows[key])]


@pytest.mark.parametrize("name", objectives.FACTORIES)
def test_every_setting_of_a_method_is_listed_with_a_meaning(name):
    section = generate.settings_page("images").split(f"### {name}\n")[1].split("\n##")[0]
    rows = {key: text for key, _, text in ROW.findall(section)}
    assert rows.keys() == set(vdu_config.method(name).params)
    assert all(map(str.strip, rows.values())), rows


def test_a_setting_s_meaning_is_its_own_comment(tmp_path):
    file = tmp_path / "settings.py"
    file.write_text(
        'OTHER = {"seed": 1}  # of something else\n'
        "train = {\n"
        "    # The number\n"
        "    # of steps.\n"
        '    "steps": 3,\n'
        '    "seed": 0,  # seed of the data\n'
        '    "inner": {"seed": 2},  # seed inside\n'
        "}\n"
    )
    said = generate.comments(file)
    text = {name: generate.beside(name, said, False) for name in ("train.steps", "train.seed")}
    assert text["train.steps"].text == "The number of steps."
    assert text["train.seed"].text == "seed of the data"
    assert generate.beside("train.inner.seed", said, False).text == "seed inside"
    assert generate.beside("train.rate", said, False) is None


def test_the_page_of_the_command_line_has_every_command_and_flag():
    sections = re.split(r"^## vdu ", generate.command_line_page(), flags=re.M)[1:]
    found = {section.split("\n")[0]: section for section in sections}
    assert list(found) == list(commands.COMMANDS)
    for name, command in commands.COMMANDS.items():
        for flag in command.flags:
            assert f"| `--{flag.name}" in found[name], (name, flag.name)


def test_every_page_is_in_the_navigation_once():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = generate.leaves(generate.expand(site["nav"]))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages -= {page for page in pages if re.fullmatch(r"results/.*/table\.md", page)}
    assert len(set(listed)) == len(listed)
    assert {*listed} - {*generate.api_pages()} == pages


def test_the_api_has_every_public_module():
    text = "".join(generate.api_pages().values())
    for package in (
        "diffusion", "models", "posterior", "objectives", "metrics", "data", "tasks", "stages",
    ):  # fmt: skip
        for path in (ROOT / "vdu_jax" / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert f"::: {name.removesuffix('.__init__')}\n" in text
    for module in ("training", "types", "forget_detector"):
        assert f"::: vdu_jax.{module}\n" in text


def test_a_link_that_leaves_docs_leads_to_the_repository():
    text = "[a](../../configs) [b](../inputs.md#images) [c](../../README.md#two-commands)"
    assert generate.outside(text, "guides/x.md", "https://example.org/r") == (
        "[a](https://example.org/r/tree/main/configs) [b](../inputs.md#images) "
        "[c](https://example.org/r/blob/main/README.md#two-commands)"
    )


@pytest.mark.parametrize("path", [*GUIDES, DOCS / "index.md", DOCS / "concepts.md"], ids=str)
def test_a_guide_is_short(path):
    assert len(path.read_text().split()) <= 1200


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_every_link_to_a_heading_finds_it(path):
    for file, anchor in re.findall(r"\]\(((?!http)[^)#\s]*)#([^)\s]+)\)", path.read_text()):
        target = (path.parent / file) if file else path
        heads = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
        slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
        assert anchor in slugs, f"{file}#{anchor}"


BLOCKS = [
    pytest.param(block, id=f"{path.stem} {number}")
    for path in GUIDES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_code_of_a_guide_makes_a_valid_config(block):
    """Or it is PyTorch's, or a part of a config, which tests/test_docs.py runs."""
    if "def get_config" not in block:
        assert block.startswith(("from diffusers import", "config.benchmark.targets = "))
        return
    names = {}
    exec(block, names)
    config = names["get_config"]()
    vdu_config.validate(config)
    if "config.benchmark" in block:
        vdu_config.validate_benchmark(config)


def test_the_recommended_settings_of_each_method_are_valid():
    page = (DOCS / "guides" / "choosing_a_method.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(.*=.*)` \|$", page, re.M)
    config = vdu_config.default()
    config.methods = {name: eval(f"vdu_config.method({name!r}, {values})") for name, values in rows}
    vdu_config.validate(config)
    assert {"retained_score", "vdu"} <= set(config.methods)


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_star_in_mathematics_is_not_read_as_emphasis(path):
    """θ* … θ* would be set in italics, without the stars; it is written θ\\*."""
    prose = re.sub(r"```.*?```|`[^`\n]*`|^ {4}[^\n]*", "", path.read_text(), flags=re.S | re.M)
    assert not re.findall(r".*[α-ω]\*(?!\*).*", prose)
