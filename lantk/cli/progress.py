"""Progress of a long step: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

_LOG_SECONDS = 30.0
# A step that is over sooner shows nothing.
_BAR_SECONDS = 2.0
_REDRAW_SECONDS = 0.2


def find_width() -> int:
    """Return the columns of the terminal, or 100 where the output goes elsewhere."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


class showing_progress:
    """Show how many units are done; yields a callable that is told ``(done, total, loss)``.

    Something is shown whether or not the callable is called: the first unit may take minutes. The
    bar is drawn by a thread of its own: drawing takes a lock, and a signal that ends the main
    thread there would leave it taken for good.
    """

    def __init__(self, unit: str) -> None:
        # Without tqdm lines are shown, as in a log.
        self._bar: Any = SimpleNamespace(disable=True, close=lambda: None)
        with suppress(ModuleNotFoundError):
            from tqdm import tqdm

            self._bar = tqdm(unit=f" {unit}", unit_scale=True, disable=None, delay=_BAR_SECONDS)
        self._unit, self._start = unit, time.monotonic()
        self._state: tuple[int, int, float | None] | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Callable[..., None]:
        self._thread.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._take_over()
        self._bar.close()

    def _update(self, done: int, total: int, loss: float | None = None) -> None:
        self._state = done, total, loss

    def _take_over(self) -> None:
        if self._state is not None:
            self._bar.n, self._bar.total, _ = self._state

    def _beat(self) -> None:
        """Say where things stand, all the time on a terminal, twice a minute in a log."""
        wait = _LOG_SECONDS if self._bar.disable else _BAR_SECONDS
        while not self._is_over.wait(wait):
            if self._bar.disable:
                print(self._describe(), file=sys.stderr, flush=True)
            else:
                # A bar that is still delayed would not be cleared at the end.
                self._bar.delay = 0
                self._take_over()
                self._bar.refresh()
                wait = _REDRAW_SECONDS

    def _describe(self) -> str:
        seconds = time.monotonic() - self._start
        if self._state is None or not self._state[0]:
            return f"no {self._unit} yet, {seconds / 60:.1f} min so far"
        done, total, loss = self._state
        left = seconds * (total - done) / done / 60
        trained = "" if loss is None else f", train loss {loss:.4f}"
        return f"{done:,} of {total:,} {self._unit}{trained}, about {left:.1f} min left"


class showing_work(showing_progress):
    """Show that a step goes on which cannot say how far it is."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self._bar.bar_format, self._bar.leave = f"{step}: {{elapsed}}", False

    def _describe(self) -> str:
        return f"{self._unit}: {(time.monotonic() - self._start) / 60:.1f} min so far"
