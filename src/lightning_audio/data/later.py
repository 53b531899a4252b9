"""A question whose answer may wait: asked beside the first epoch, and answered before a score is written."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lightning_audio.errors import UserError

BEGINS_AFTER = 5.0  # seconds: the start of a run has enough to do


class Later:
    """Asks in a thread of its own, a while after it was made.

    Args:
        ask: raises UserError where something is wrong.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask, self._answered = ask, threading.Lock()
        self.is_answered = False
        self.error: UserError | None = None
        timer = threading.Timer(BEGINS_AFTER, self._answer)
        timer.daemon = True
        timer.start()

    def _answer(self) -> None:
        with self._answered:  # once, whoever is first
            if not self.is_answered:
                try:
                    self._ask()
                except UserError as error:
                    self.error = error
                self.is_answered = True

    def tell(self) -> None:
        """Raises what is wrong, where that is known by now."""
        if self.error is not None:
            raise self.error

    def confirm(self) -> None:
        """Waits for the answer, and raises what is wrong."""
        self._answer()
        self.tell()
