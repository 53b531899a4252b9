"""Audio classification and speech recognition with PyTorch Lightning and Hydra.

import lightning_audio
model = lightning_audio.load("logs/demo/2026-01-31_12-00-00_a1b2")
model.predict(["dog.wav", "rain.mp3"])
"""

import os

# Nothing is reported to anybody: onnxruntime would tell its makers of each model that it opens and keep a
# number for this machine, MLflow of each start.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

TYPE_CHECKING = False  # as in typing, which itself takes longer to import than `lightning-audio --help` has
if TYPE_CHECKING:
    from typing import Any

    from lightning_audio.errors import UserError
    from lightning_audio.export.runtime import Runtime

__all__ = ["Runtime", "UserError", "__version__", "load"]


def __getattr__(name: str) -> "Any":
    # torch and Lightning take seconds to import: only when the first model is asked for.
    if name == "load":
        from lightning_audio.checkpoint import load

        return load
    if name == "Runtime":
        from lightning_audio.export.runtime import Runtime

        return Runtime
    if name == "UserError":
        from lightning_audio.errors import UserError

        return UserError
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("lightning-audio")
        except PackageNotFoundError:  # the sources are on the path, but not installed
            return "0.0.0"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
