"""What an installed package finds beside its code."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_holds_the_configuration_and_finds_it(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    inside = {
        file.relative_to(site / "lightning_audio/conf")
        for file in site.glob("lightning_audio/conf/**/*.yaml")
    }
    assert inside == {f.relative_to(ROOT / "conf") for f in ROOT.glob("conf/**/*.yaml")}

    code = (
        "from lightning_audio.config import CONF, compose_config\n"
        "print(CONF, compose_config(['experiment=demo']).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(site / "lightning_audio" / "conf"), "demo"], done.stderr
