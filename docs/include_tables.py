"""Write the tables of docs/results/*.md from the files that `vdu` wrote.

    python docs/include_tables.py           write the tables into the pages
    python docs/include_tables.py --check   exit with 1 if a page differs from its files

A comment in a page describes a table. The table replaces the lines between the comment and
`<!-- end of table -->`:

    <!-- table: data set | method | PUL % | u-FID
    digits = digits_methods/table.md: retrain, vdu
    fashion = fashion_methods/table.md: retrain, vdu
    -->

The first line names the columns. Each further line has up to three parts:

- before " = ", optionally, the label of the rows in the first column;
- the path of a file below docs/results/;
- after ":", optionally, the rows to take; all rows by default.

The file is either a page of tables, where the table that has all columns is used, or a JSON file of
models, where a column needs a key and a format: `u-FID = u_fid .2f`.
"""

import argparse
import json
import re
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TABLE = re.compile(r"(<!-- table: (.*?)\n(.*?)-->\n).*?(<!-- end of table -->)", re.DOTALL)


def split(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read(path: Path) -> list[dict[str, dict]]:
    """Return the tables of a file, each as row name -> column -> value."""
    if path.suffix == ".json":
        models = json.loads(path.read_text())
        return [{name: {"model": name} | row for name, row in models.items()}]
    tables = []
    for block in re.findall(r"(?:^\|.*\n?)+", path.read_text(), re.MULTILINE):
        head, _, *rows = [split(line) for line in block.splitlines()]
        tables.append({row[0]: dict(zip(head, row, strict=True)) for row in rows})
    return tables


def select(path: Path, columns: list[str], names: list[str]) -> list[list[str]]:
    """Return the named rows of the first table of a file that has all columns."""
    wanted = [column.split(" = ")[-1].partition(" .") for column in columns]
    for table in read(path):
        if all(source in row for source, _, _ in wanted for row in table.values()):
            missing = [name for name in names if name not in table]
            if missing:
                sys.exit(f"{path}: no row {missing[0]}; the rows are {', '.join(table)}")
            rows = [table[name] for name in names or table]
            return [
                [format(row[source], dot.strip() + digits) for source, dot, digits in wanted]
                for row in rows
            ]
    sys.exit(f"{path}: no table with all of the columns {' | '.join(columns)}")


def table(columns: str, sources: str, results: Path = RESULTS) -> str:
    """Return the table that a comment describes."""
    head, rows = split(columns), []
    for line in sources.splitlines():
        label, equals, source = line.rpartition(" = ")
        file, _, names = source.partition(":")
        chosen = [name.strip() for name in names.split(",") if name.strip()]
        found = select(results / file.strip(), head[1:] if equals else head, chosen)
        if equals:  # only the first of its rows shows the label
            found = [[label if number == 0 else "", *row] for number, row in enumerate(found)]
        rows += found
    lines = [[column.split(" = ")[0] for column in head], ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fill(path: Path, results: Path = RESULTS) -> str:
    """Return the text of a page with its tables made from their files."""
    page = path.read_text()
    if len(TABLE.findall(page)) != page.count("<!-- table:"):
        sys.exit(
            f"{path}: a table has no line `<!-- end of table -->`: add the line below the table"
        )
    return TABLE.sub(lambda at: f"{at[1]}\n{table(at[2], at[3], results)}\n{at[4]}", page)


def main(arguments: list[str] | None = None, results: Path = RESULTS) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a page differs"
    )
    check = parser.parse_args(arguments).check
    differ = []
    for path in sorted(results.glob("*.md")):
        filled = fill(path, results)
        if filled != path.read_text():
            differ.append(path.name)
            if not check:
                path.write_text(filled)
    if check and differ:
        sys.exit(f"Tables differ from their files: {', '.join(differ)}: run docs/include_tables.py")


if __name__ == "__main__":
    main()
