"""The shape of the project: imports run one way, files stay small, git holds what it should."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "lightning_audio"
PREFIX = "lightning_audio."

# A module imports only what stands on its own line or above; a package stands for all that is in it. Modules
# that are not named here may stand anywhere, but what is reached through them counts.
ORDER = (
    ("errors", "io", "onnx_file", "cli.option_groups", "cli.arguments"),
    ("config.ranges", "config.trust"),
    ("config",),
    ("text",),
    ("data.clip",),
    (
        "data.batch",
        "data.threads",
        "data.containers",
        "data.mpeg",
        "data.audio_file",
        "data.decode",
        "data.quarantine",
        "data.store",
        "data.wave_store",
        "data.feature_store",
        "data.sampler",
        "data.duration_sampler",
        "data.targets",
        "data.manifests",
    ),
    ("data.inspect",),
    ("data.download", "data.long_audio"),
    ("data.corpora",),
    ("data.datamodule",),
    ("frontend",),
    ("augment", "networks"),
    ("metrics",),
    ("decoding",),
    ("inference",),
    ("reports",),
    ("tasks",),
    ("build",),
    ("checkpoint",),
    ("export",),
    ("serving",),
    ("training",),
    ("cli", "__main__"),
)
LEVELS = {name: level for level, names in enumerate(ORDER) for name in names}
# What a `_target_` in YAML names: no other code knows of them, so that a new one is one file.
PLUGINS = ("data.corpora", "networks")

LONGEST_FILE = 400
LONGEST_FUNCTION = 50
LARGEST_TRACKED = 600_000


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`data.clip` for data/clip.py, `data` for data/__init__.py, and nothing for the package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sources()}


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names that an import might mean, wherever in the file it stands."""
    package = ".".join(["lightning_audio", *path.relative_to(PACKAGE).parts[:-1]])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                # `from package import name` means a module where there is one, otherwise the package itself.
                whole = f"{source}.{alias.name}"
                yield whole if whole.removeprefix(PREFIX) in modules() else source


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports of the project; the package's own `__init__`, the front door, is left out."""
    found = {}
    for name, path in modules().items():
        within = (other for other in imported_names(path) if other.startswith(PREFIX))
        found[name] = ({other.removeprefix(PREFIX) for other in within} & modules().keys()) - {name}
    found.pop("", None)
    return found


def level(name: str) -> int | None:
    while name and name not in LEVELS:
        name = name.rpartition(".")[0]
    return LEVELS.get(name)


def reached_from(name: str) -> set[str]:
    """The modules that stand in ORDER and are imported by this one, directly or through ones that do not."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        new = imports()[waiting.pop()] - seen
        seen |= new
        waiting += [other for other in new if level(other) is None]
    return {other for other in seen if level(other) is not None}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def git_files(*options: str) -> list[Path]:
    """What `git ls-files` names; the test skips where this is no git checkout."""
    try:
        done = subprocess.run(["git", "ls-files", "-z", *options], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if done.returncode:
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_imports_of_a_known_module_are_seen() -> None:
    assert imports()["data.clip"] == {"errors"}
    assert "errors" in reached_from("data.datamodule")


def test_levels_follow_packages() -> None:
    assert level("data.corpora.esc50") == LEVELS["data.corpora"]
    assert level("tasks.classification") == LEVELS["tasks"]
    assert level("data") is None


def test_imports_run_one_way() -> None:
    placed = {name: own for name in imports() if (own := level(name)) is not None}
    upward = {
        name: {other for other in reached_from(name) if placed[other] > placed[name]} for name in placed
    }
    assert {name: others for name, others in upward.items() if others} == {}


def test_no_import_cycle() -> None:
    TopologicalSorter(imports()).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("package", PLUGINS)
def test_plugins_are_known_to_yaml_alone(package: str) -> None:
    """From outside of their package, only the `base` of corpora and networks is imported."""
    plugins = {name for name in modules() if name.startswith(f"{package}.")}
    known = {name: others & plugins - {f"{package}.base"} for name, others in imports().items()}
    assert {name: others for name, others in known.items() if others and name not in plugins} == {}


@pytest.mark.parametrize("name", sorted(modules()))
def test_module_imports(name: str) -> None:
    importlib.import_module(f"lightning_audio.{name}".rstrip("."))


def test_files_are_short() -> None:
    lengths = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{module_name(path)}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in sources()
        for function in functions(path)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_every_config_begins_with_a_comment() -> None:
    """One that a reader has something of: Hydra's `# @package` does not count."""
    bare = []
    for path in sorted(set((ROOT / "conf").rglob("*.yaml")) - set((ROOT / "conf" / "local").glob("*"))):
        head = re.match(r"(?:#.*\n|\s*\n)*", path.read_text(encoding="utf-8") + "\n")
        lines = head.group().splitlines() if head else []
        if not any(line.startswith("#") and "@package" not in line for line in lines):
            bare.append(str(path.relative_to(ROOT)))
    assert bare == []


def test_tracked_files_are_small() -> None:
    assert [str(path) for path in git_files() if path.stat().st_size > LARGEST_TRACKED] == []


def test_no_source_is_ignored_by_git() -> None:
    """A pattern such as `data/` in .gitignore also hides folders of that name in src and conf."""
    ignored = git_files("--others", "--ignored", "--exclude-standard", "src", "conf", "tests")
    names = [str(path.relative_to(ROOT)) for path in ignored if path.suffix in {".py", ".yaml"}]
    assert [name for name in names if not name.startswith("conf/local/")] == []


def test_no_index_address_is_tracked() -> None:
    """Where packages come from is a setting of the machine; the pattern does not match itself."""
    address = re.compile(rb"(?<!no-emit-)index[-_][u]rl|/[s]imple(?![\w.-])|[p]ypi\.org|[p]ythonhosted", re.I)
    found = {str(path.relative_to(ROOT)): address.findall(path.read_bytes()) for path in git_files()}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}
