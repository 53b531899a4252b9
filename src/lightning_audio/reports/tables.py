"""Rows of text as tables: Markdown for files, rich for the terminal, and the table of scores per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_audio.io import terminal, to_csv, write_atomically


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all rows, in the order in which they first come up."""
    return list(dict.fromkeys(key for row in rows for key in row))


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of text as a Markdown table; a cell that a row lacks is empty."""
    columns = columns_of(rows)
    lines = [columns, ["---"] * len(columns), *([row.get(key, "") for key in columns] for row in rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def print_table(rows: Sequence[Mapping[str, str]], title: str, console: Console | None = None) -> None:
    """Rows of text as a table on the terminal, or on another console that `io.terminal` made."""
    console, columns = console or terminal(), columns_of(rows)
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(shown(row.get(key, ""), console) for key in columns))
    console.print(table)


def shown(text: str, console: Console) -> str:
    """Text with the signs of this project in plain characters where a console can't encode others."""
    return text.replace("±", "+-") if console.options.ascii_only else text


def per_class_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows per class as text: rates in percent, numbers of clips as they are, nothing for None."""
    return [{key: _cell(value) for key, value in row.items()} for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f}"
    return "" if value is None else str(value)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Writes these columns of the rows, or all that they have."""
    write_atomically(path, to_csv(rows, columns_of(rows) if columns is None else columns))
