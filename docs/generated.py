"""The pages that are made of conf/: every option with its comment, every experiment with its header."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

CONF = Path(__file__).parents[1] / "conf"
HIDDEN = ("experiment", "local")
OPTIONS = """# Options

Every choice is a file below `conf/`, and these are the files. `lightning-audio train data=NAME
data.OPTION=VALUE` takes another file of a group, or another value in it; `lightning-audio train
experiment=NAME --cfg job` prints what a run would take.
"""
EXPERIMENTS = """# Experiments

`make train EXP=NAME`, or `lightning-audio train experiment=NAME`. Each begins with its command, its hardware,
its minutes and the score that came out.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds both pages to those of `docs/pages`."""
    groups = sorted(folder for folder in CONF.iterdir() if folder.is_dir() and folder.name not in HIDDEN)
    options = [OPTIONS, section("train.yaml", CONF / "train.yaml")]
    for group in groups:
        files_of_it = sorted(group.glob("*.yaml"))
        options += [f"## {group.name}", *(section(f"{group.name}={file.stem}", file) for file in files_of_it)]
    experiments = [section(file.stem, file) for file in sorted((CONF / "experiment").glob("*.yaml"))]
    for name, parts in (("options.md", options), ("experiments.md", [EXPERIMENTS, *experiments])):
        files.append(File.generated(config, name, content="\n\n".join(parts)))
    return files


def section(title: str, file: Path) -> str:
    """A file of conf/ below its title."""
    return f"### {title}\n\n```yaml\n{file.read_text(encoding='utf-8').rstrip()}\n```"
