"""What the README and docs/ tell a user to type exists, and the pages build strictly without a network."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_audio.cli.arguments import OVERRIDDEN, PROGRAMS, READERS
from lightning_audio.config import compose_config
from lightning_audio.config.misfits import refuse_unread

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]
GROUPS = {folder.name: {file.stem for file in folder.glob("*.yaml")} for folder in (ROOT / "conf").glob("*/")}
# What the pages let a user add.
OWN = {"mean_mlp", "drums", "mine"}

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="docs/ is not part of the package")


def typed() -> list[tuple[str, str]]:
    """Every page's name with each stretch of code in it."""
    texts = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    return [
        (name, re.sub(r"\\\n\s*", " ", code))
        for name, text in texts.items()
        for code in re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    ]


def test_programs_and_their_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    helps = {}
    for name, reader in READERS.items():
        with pytest.raises(SystemExit):
            reader(["--help"])
        helps[name] = capsys.readouterr().out
    commands = [
        (page, *found)
        for page, code in typed()
        for found in re.findall(r"lightning-audio ([a-z][a-z-]*)([^\n`#|]*)", code)
    ]
    assert len(commands) > 20
    for page, program, rest in commands:
        assert program in PROGRAMS, f"{page}: lightning-audio {program}"
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            known = program in OVERRIDDEN and option in ("--cfg", "--config-dir", "--stage")
            assert known or option in helps.get(program, ""), f"{page}: {program} {option}"


def test_choices_of_groups_exist() -> None:
    chosen = [
        (page, *found)
        for page, code in typed()
        for found in re.findall(r"(?<![\w.])(EXP|[a-z]+)=([a-z][a-z0-9_]*)(?![\w=.\[/])", code)
    ]
    chosen = [(p, "experiment" if g == "EXP" else g, c) for p, g, c in chosen]
    looked = [row for row in chosen if row[1] in GROUPS]
    assert len(looked) > 30
    for page, group, choice in looked:
        assert choice in GROUPS[group] | OWN, f"{page}: {group}={choice}"


def test_what_the_tutorials_train_with_fits_together() -> None:
    """With the experiment that `make` takes where none is named, too."""
    commands = set()
    for page, code in typed():
        if page not in ("own_recordings.md", "own_speech.md"):
            continue
        for rest in re.findall(r"make (?:train|check|doctor)((?: [A-Z]+=(?:\"[^\"]*\"|\S+))*)", code):
            given = dict(word.split("=", 1) for word in shlex.split(rest))
            commands.add((f"experiment={given.get('EXP', 'demo')}", *shlex.split(given.get("ARGS", ""))))
        for rest in re.findall(r"lightning-audio (?:train|check)((?: [\w.]+=\S+| '[\w.]+=[^']+')+)", code):
            commands.add(tuple(shlex.split(rest)))
    assert len(commands) >= 5
    for command in sorted(commands):
        cfg = OmegaConf.to_container(compose_config(command), resolve=False)
        assert isinstance(cfg, dict)
        for part in ("frontend", "network"):
            refuse_unread(cfg[part], part)


def test_make_has_the_targets() -> None:
    targets = set(
        re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    said = {(page, t) for page, code in typed() for t in re.findall(r"(?:`|\n|^)make ([a-z-]+)", code)}
    assert len(said) > 20
    assert not {(page, target) for page, target in said if target not in targets}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text):
        made = link in ("options.md", "experiments.md")  # by docs/generated.py
        assert made or (page.parent / link).is_file(), f"{page.name}: {link}"


def test_the_pages_build_strictly_and_ask_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    command = [
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        str(ROOT / "docs" / "mkdocs.yml"),
        "-d",
        str(tmp_path),
    ]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=120)
    options = (tmp_path / "options.html").read_text(encoding="utf-8")
    for group in GROUPS.keys() - {"experiment", "local"}:
        assert f'id="{group}"' in options
    experiments = (tmp_path / "experiments.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in experiments for name in GROUPS["experiment"])
    for file in tmp_path.glob("*.html"):
        page = file.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]+)', page)
        fetched += re.findall(r'<link[^>]* rel="(?!canonical)[^"]*"[^>]* href="(https?:[^"]+)', page)
        assert not fetched, file.name
