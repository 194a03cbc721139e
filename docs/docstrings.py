"""A griffe extension that keeps mathematics and listings in docstrings from becoming Markdown."""

import re

import griffe


class PlainText(griffe.Extension):
    """Escapes characters in every docstring that Markdown would read as markup."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)


def plain(docstring: str) -> str:
    """Return a docstring in which only `code`, *words* and lists are markup.

    A paragraph in columns, such as a list of files, becomes a code block.
    """
    return "\n\n".join(map(_paragraph, re.split(r"\n\n", docstring)))


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if text.startswith("    "):
        return text
    if len(lines) > 1 and all(re.match(r"\S+.* {2,}\S|\s{8,}\S", line) for line in lines):
        return "\n".join(f"    {line}" for line in lines)
    kept = r"(`[^`]*`|\B\*[a-z ]+\*\B|^ +\*+\w+:)"  # code, *words*, and an argument "*args:"
    parts = re.split(kept, text, flags=re.MULTILINE)
    return "".join(part if n % 2 else _escape(part) for n, part in enumerate(parts))


def _escape(text: str) -> str:
    return re.sub(r"([*\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text).replace("<", "&lt;")
