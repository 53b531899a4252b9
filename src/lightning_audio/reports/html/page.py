"""Templates into one HTML file: what stands in results is shown as text, whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_audio.io import write_atomically
from lightning_audio.reports.tables import columns_of

Section = dict[str, Any]


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("lightning_audio.reports.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["columns"] = columns_of
    return environment


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Fills a template of `templates/` and writes it whole or not at all."""
    write_atomically(path, _templates().get_template(template).render(**content), to_disk=False)
    return path


def section(title: str, text: Sequence[str] = (), rows: Any = (), charts: Sequence[Any] = ()) -> Section:
    """A part of a page: sentences, a table, charts."""
    return {"title": title, "text": list(text), "rows": list(rows), "charts": [c for c in charts if c]}


def write_sections(
    path: Path, title: str, key: str, verdict: str, sections: Sequence[Section], **more: Any
) -> Path:
    """A page of sections; `more` are the cards of clips, and the table of labels with what it counts."""
    content = {"of_labels": None, "counted": "", "cards": [], **more}
    return write_page(
        path, "sections.html", title=title, key=key, verdict=verdict, sections=sections, **content
    )
