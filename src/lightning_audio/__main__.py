"""`lightning-audio PROGRAM ...` is `python -m lightning_audio PROGRAM ...`."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from types import FrameType, ModuleType


def imported(module: str) -> ModuleType:
    """The module of a program, imported without looking for garbage meanwhile.

    Half a million objects come and stay. The search for cycles would go through all of them again and again
    and take a sixth of the time that torch and Lightning need; frozen, they are passed over from then on.
    """
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def leave(signum: int, frame: FrameType | None) -> None:
    """What Ctrl-C does until the program has handlers of its own."""
    os.write(2, b"stopped by SIGINT\n")
    os._exit(128 + signum)


def main() -> None:
    """Hands the rest of the command line to the program that its first word names; lists them otherwise."""
    signal.signal(signal.SIGINT, leave)  # before anything is imported that takes time
    from lightning_audio.cli.arguments import OVERRIDDEN, PROGRAMS, READERS
    from lightning_audio.cli.usage import usage
    from lightning_audio.errors import cli_errors, handle_signals, leave_at_once

    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name not in PROGRAMS or (name in OVERRIDDEN and {"-h", "--help"} & set(arguments)):
        cli_errors(usage)(name)
        sys.exit(0)
    if name in READERS:
        READERS[name](arguments)  # ends here on --help or a mistyped option, before seconds of imports
    handle_signals(leave_at_once)  # until torch has been unloaded: the program has handlers of its own
    module = imported(f"lightning_audio.cli.{name.replace('-', '_')}")
    if name in (*OVERRIDDEN, "check", "explore"):
        importlib.import_module("lightning_audio.config.trust").find_own_packages()
    sys.argv = [str(module.__file__), *arguments]
    # Processes that Lightning starts for other devices run what this names, with the same arguments.
    sys.modules["__main__"].__spec__ = module.__spec__
    module.main()


if __name__ == "__main__":
    main()
