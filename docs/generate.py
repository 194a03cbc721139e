"""Generate the documentation pages that are made from the code, and the site's navigation.

    python docs/generate.py        # writes docs/reference/

`make docs` runs this script, and MkDocs loads it as a hook (mkdocs.yml). Only the hook functions
import MkDocs, so the tests do not need it.
"""

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PACKAGE = ROOT / "vdu_jax"
NOTE = "<!-- Written by docs/generate.py: change {source} and run `make docs`. -->\n\n"

# -- Settings: the defaults, each with its comment in the code.


class Comment(NamedTuple):
    """The comment of a key of a dict.

    Attributes:
      table: lower-case name of the variable or key whose value is the dict; "" for none.
      key: the key.
      text: the comment, without the leading #.
    """

    table: str
    key: str
    text: str


def comments(path: Path) -> list[Comment]:
    """Return the comment of every key of every dict of a Python file, in the file's order.

    The comment of a key is the comment lines above it, then the comment at the end of its line.
    """
    lines = path.read_text().splitlines()
    found = []

    def visit(node: ast.AST, table: str) -> None:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            table = node.targets[0].id
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            table = node.target.id
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                inner = table
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    last = key.lineno if isinstance(value, ast.Dict) else value.end_lineno
                    found.append((key.lineno, table.lower(), key.value, last))
                    inner = key.value
                visit(value, inner)
        else:
            for child in ast.iter_child_nodes(node):
                visit(child, table)

    def text(first: int, last: int) -> str:
        above = first - 1
        while above and lines[above - 1].strip().startswith("#"):
            above -= 1
        said = [line.strip() for line in lines[above : first - 1]]
        said += [
            line[line.index("  # ") :].strip() for line in lines[first - 1 : last] if "  # " in line
        ]
        return " ".join(line.lstrip("# ") for line in said)

    visit(ast.parse(path.read_text()), "")
    return [Comment(table, key, text(first, last)) for first, table, key, last in sorted(found)]


def settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of a config and its default.

    A section whose keys the user chooses counts as one setting.
    """
    from vdu_jax.config import USER_KEYED_SECTIONS

    for key, value in config.items():
        name = f"{prefix}{key}"
        own = name in USER_KEYED_SECTIONS or key in USER_KEYED_SECTIONS
        if isinstance(value, Mapping) and not own:
            yield from settings(value, f"{name}.")
        else:
            yield name, value


def beside(name: str, said: list[Comment], text_to_image: bool) -> Comment | None:
    """Return the comment of a setting `section.key`, or None.

    Args:
      name: the setting.
      said: the comments of the files that define the section.
      text_to_image: prefer the last match, because a section's dict for text-to-image models
        follows the one for models of images.
    """
    section, _, key = name.rpartition(".")
    table = section.rpartition(".")[2]
    found = [comment for comment in said if comment.key == key and comment.text]
    found = [comment for comment in found if comment.table == table] or found
    return found[-1 if text_to_image else 0] if found else None


def sentence(text: str) -> str:
    """Capitalise a text, unless it begins with a name of the code or a symbol."""
    first = text.split(" ", 1)[0]
    plain = re.fullmatch(r"[a-z]+[,;:]?", first)
    return text[0].upper() + text[1:] if plain else text


def default(value: Any) -> str:
    """Format a default value as in a config file."""
    plain = dict(value) if isinstance(value, Mapping) else value
    text = repr(plain) if len(repr(plain)) < 60 else "…"
    return f"`{text}`"


def cell(text: str) -> str:
    """Format the text of a table cell: settings and values as code, everything else escaped."""
    keys = "|".join(FILES)
    code = rf'(`[^`]*`|"[\w+]*"|\b(?:{keys})\.[a-z_.]*[a-z])'
    parts = re.split(code, text.replace("|", "\\|"))
    plain = [re.sub(r"([*<])", r"\\\1", part) for part in parts[::2]]
    marked = [f"`{part.strip('`')}`" for part in parts[1::2]] + [""]
    return "".join(piece for pair in zip(plain, marked, strict=True) for piece in pair)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# Section -> the file of vdu_jax/config/ that has its defaults.
FILES = {
    "data": "data", "forget": "data", "model": "network", "condition": "network",
    "diffusion": "network", "train": "train", "unlearn": "train", "parallel": "train",
    "methods": "methods", "posterior": "posterior", "sampler": "drawing", "replay": "drawing",
    "curve": "drawing", "relearn": "drawing", "evaluate": "evaluate", "classifier": "evaluate",
    "detector": "evaluate", "benchmark": "benchmark",
}  # fmt: skip


def said_of(section: str, architecture: str) -> list[Comment]:
    """Return the comments of the files that have the defaults of a section."""
    paths = [PACKAGE / "config" / f"{FILES[section]}.py"]
    own = PACKAGE / "models" / f"{architecture}.py"
    if section == "model" and own.exists():
        paths = [own, own.with_name("network.py")]
    return [comment for path in paths for comment in comments(path)]


def rows_of(section: str, values: Mapping[str, Any], architecture: str) -> list[tuple[str, ...]]:
    """Return (key, default, meaning) of every setting of a section, in the code's order."""
    from vdu_jax.config import TEXT_TO_IMAGE

    said = said_of(section, architecture)
    rows = []
    for name, value in settings(values, f"{section}."):
        comment = beside(name, said, architecture == TEXT_TO_IMAGE)
        place = said.index(comment) if comment else len(said)
        rows.append((place, name, default(value), sentence(comment.text) if comment else ""))
    return [tuple(row) for _, *row in sorted(rows, key=lambda row: row[0])]


def method_rows() -> list[tuple[str, ...]]:
    """Return (key, default, meaning) of the settings that every entry of `methods` has."""
    from vdu_jax import config as vdu_config

    entry = vdu_config.method("vdu").to_dict()
    del entry["params"]
    rows = rows_of("methods", entry, "")
    return [(name.replace(".", ".NAME."), value, text) for name, value, text in rows]


def arguments(docstring: str) -> dict[str, str]:
    """Return name -> text of the arguments that a docstring describes under "Args:"."""
    block = re.search(r"^ *Args:\n(.*?)(?=\n\s*\n|\Z)", docstring or "", re.S | re.M)
    said: dict[str, str] = {}
    lines = block[1].splitlines() if block else []
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    name = ""
    for line in lines:
        begins = re.match(r"(\w+): (.*)", line[indent:])
        if begins:
            name, said[begins[1]] = begins.groups()
        else:
            said[name] += f" {line.strip()}"
    return said


def objective_rows(name: str) -> list[tuple[str, ...]]:
    """Return (key, default, meaning) of an objective's settings, from its factory's docstring."""
    import inspect

    from vdu_jax import objectives

    factory = objectives.FACTORIES[name]
    said, rows = arguments(inspect.getdoc(factory)), []
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        text = said.get(parameter.name, "")
        rows.append((parameter.name, default(parameter.default), sentence(text) if text else ""))
    return rows


HEAD = ("key", "default", "meaning")
ABOUT = {
    "methods": "Each entry is made by `vdu_config.method(OBJECTIVE, …)` under a name of your own; "
    "[choosing a method](../guides/choosing_a_method.md) says which and with what. On the command "
    "line: `--config.methods.NAME.steps=100`.",
    "benchmark": "Only `vdu benchmark` reads this section: see [comparing "
    "methods](../guides/comparing_methods.md).",
    "condition": "Only networks that are given a class or a text use this section.",
}


def _marked(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(f"`{key}`", value, cell(text)) for key, value, text in rows]


def settings_page(kind: str) -> str:
    """Return the page of all settings of one kind of config, "images" or "text_to_image"."""
    from vdu_jax import config as vdu_config
    from vdu_jax import objectives
    from vdu_jax.models import registry

    is_text = kind == "text_to_image"
    architectures = [vdu_config.TEXT_TO_IMAGE] if is_text else list(registry.ARCHITECTURES)
    config = vdu_config.default(architectures[0]).to_dict()
    start = f'default("{vdu_config.TEXT_TO_IMAGE}")' if is_text else "default()"
    titles = {"images": "models of images", "text_to_image": "text-to-image models"}
    title = titles.pop(kind)
    ((other, other_title),) = titles.items()
    parts = [
        NOTE.format(source="the comments in vdu_jax/config/") + f"# Settings of {title}\n",
        f"Every setting of `vdu_jax.config.{start}`. A config file changes what it needs, and\n"
        "`--config.KEY=VALUE` changes one setting on the command line. See also the\n"
        f"[settings of {other_title}](settings_{other}.md).\n",
    ]
    for section in FILES:
        if section not in config:
            continue
        about = f"\n{ABOUT[section]}\n" if section in ABOUT else ""
        if section == "model":
            for name in architectures:
                values = vdu_config.model(name).to_dict()
                head = f"## model, {name}" if len(architectures) > 1 else "## model"
                use = f'`config.model = vdu_config.model("{name}", …)`\n\n' * (not is_text)
                rows = [r for r in rows_of("model", values, name) if r[0] != "model.name"]
                rows = [("model.name", f"`{name!r}`", "The architecture"), *rows]
                parts.append(f"{head}\n\n{use}{table(HEAD, _marked(rows))}")
        elif section == "methods":
            text = f"## methods\n{about}\n{table(HEAD, _marked(method_rows()))}"
            for name in objectives.FACTORIES:
                own = objective_rows(name)
                text += f"\n### {name}\n\n"
                text += table(HEAD, _marked(own)) if own else "No settings of its own.\n"
            parts.append(text)
        else:
            rows = rows_of(section, config[section], architectures[0])
            parts.append(f"## {section}\n{about}\n{table(HEAD, _marked(rows))}")
    return "\n".join(parts)


# -- The command line: the table of vdu_jax/cli/commands.py.


def command_line_page() -> str:
    """Return the page of all commands with their arguments and flags."""
    from vdu_jax.cli import commands

    stages = [(f"[`vdu {n}`](#vdu-{n})", cell(c.about)) for n, c in commands.COMMANDS.items()]
    parts = [
        NOTE.format(source="vdu_jax/cli/commands.py") + "# Command line\n",
        "`vdu COMMAND --help` prints the same. A flag that a command does not take is refused. In "
        "every path\n`~`, `~USER`, `$VARIABLE` and `${VARIABLE}` are expanded; `$$` is a dollar "
        "sign. A user's mistake ends\nwith one line and exit code 2.\n",
        table(("command", "what it does"), stages),
    ]
    for name, command in commands.COMMANDS.items():
        about = command.about[0].upper() + command.about[1:]
        usage = f"```text\n{commands.usage(name).removeprefix('usage: ')}\n```"
        rows = [(f"`{a.name}`", "required", cell(a.about)) for a in command.arguments]
        for flag in (*command.flags, commands.DEBUG):
            value = "required" if flag.name in command.required else ""
            if not value and flag.value and flag.default not in (None, ""):
                value = f"`{flag.default}`"
            text = cell(flag.about)
            if flag.choices:
                text += f"; one of {', '.join(f'`{c}`' for c in flag.choices)}"
            usage_of = flag.usage.replace("|", "\\|")
            rows.append((f"`{usage_of}`", value, text))
            if flag.name == "config":
                rows.append(("`--config.KEY=VALUE`", "", "change one setting of that file"))
        text = (
            f"## vdu {name}\n\n{about}.\n\n{usage}\n\n{table(('flag', 'default', 'meaning'), rows)}"
        )
        parts.append(text + (f"\n{cell(command.more)}\n" if command.more else ""))
    return "\n".join(parts)


# -- The API: one page per package, filled by mkdocstrings from the docstrings.

# Page -> packages and modules of vdu_jax.
API = {
    "training": ("training", "types", "errors"),
    "diffusion": ("diffusion",),
    "models": ("models",),
    "posterior": ("posterior",),
    "objectives": ("objectives",),
    "metrics": ("metrics",),
    "forget_detector": ("forget_detector",),
    "data": ("data",),
    "tasks": ("tasks",),
    "stages": ("stages",),
    "config": ("config",),
}


def modules(name: str) -> list[str]:
    """Return the dotted names of a module, or of a package and its public modules."""
    folder = PACKAGE / name
    if not folder.is_dir():
        return [f"vdu_jax.{name}"]
    found = []
    for path in folder.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not parts[-1].startswith("_") or parts[-1] == "__init__":
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(found)


def directive(name: str) -> str:
    """Return the mkdocstrings directive of a module, for the public names that it defines."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(path.read_text()).body
    own = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    for node, below in zip(body, body[1:], strict=False):  # a constant with a docstring below it
        if isinstance(node, ast.Assign) and isinstance(below, ast.Expr):
            own += [target.id for target in node.targets if isinstance(target, ast.Name)]
    public = [member for member in own if not member.startswith("_")]
    return f"::: {name}\n    options:\n      members: {public}\n"


def api_pages() -> dict[str, str]:
    """Return path in docs/ -> text of the API pages, which exist only while the site is built."""
    pages = {}
    for page, packages in API.items():
        names = [module for package in packages for module in modules(package)]
        pages[f"reference/api/{page}.md"] = "\n".join([f"# {page}\n", *map(directive, names)])
    return pages


# -- The navigation and the hooks of MkDocs.


def folder_pages(folder: str) -> list[str]:
    """Return the pages of a folder of docs/ ("results/"), the overview first."""
    if folder == "reference/api/":
        return list(api_pages())
    found = [path.relative_to(DOCS).as_posix() for path in (DOCS / folder).rglob("*.md")]
    found = [page for page in found if not page.endswith("/table.md")]  # of `vdu benchmark`
    return sorted(found, key=lambda page: (page != f"{folder}index.md", page))


def expand(nav: Any) -> Any:
    """Replace every folder ("results/") of a navigation by its pages."""
    if isinstance(nav, dict):
        return {title: expand(item) for title, item in nav.items()}
    if isinstance(nav, list):
        expanded = [(item, expand(item)) for item in nav]
        return [x for item, new in expanded for x in (new if _is_folder(item) else [new])]
    return folder_pages(nav) if _is_folder(nav) else nav


def _is_folder(item: Any) -> bool:
    return isinstance(item, str) and item.endswith("/")


def leaves(nav: Any) -> list[str]:
    """Return the pages of a navigation."""
    if isinstance(nav, list):
        return [page for item in nav for page in leaves(item)]
    return leaves(list(nav.values())) if isinstance(nav, dict) else [nav]


def outside(markdown: str, page: str, repository: str) -> str:
    """Point the links of a page to files outside docs/ at the repository."""

    def replace(link: re.Match) -> str:
        target = os.path.normpath(os.path.join("docs", os.path.dirname(page), link[1]))
        if target.split("/")[0] == "docs":
            return link[0]
        kind = "tree" if (ROOT / target.split("#")[0]).is_dir() else "blob"
        return f"]({repository}/{kind}/main/{target})"

    return re.sub(r"\]\(((?:\.\./)+[^)\s]+)\)", replace, markdown)


def on_config(config):
    """MkDocs hook: expand the navigation, and give headings the same anchors as on GitHub."""
    from pymdownx import slugs

    config.nav = expand(config.nav)
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugs.slugify(case="lower")
    return config


def on_files(files, config):
    """MkDocs hook: add the API pages."""
    from mkdocs.structure.files import File

    for path, text in api_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """MkDocs hook: fix links to files outside docs/, and link pictures to their full size."""
    del files
    markdown = re.sub(r"^(!\[[^\]]*\]\((\S+)\))$", r"[\1](\2)", markdown, flags=re.M)
    return outside(markdown, page.file.src_uri, config.repo_url.rstrip("/"))


def pages() -> dict[str, str]:
    """Return path in docs/ -> text of the generated pages that are kept in the repository."""
    return {
        "reference/settings_images.md": settings_page("images"),
        "reference/settings_text_to_image.md": settings_page("text_to_image"),
        "reference/command_line.md": command_line_page(),
    }


def main() -> None:
    """Write the pages that are kept in the repository."""
    for path, text in pages().items():
        (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / path).write_text(text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
