"""Progress of a long step: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


class showing_progress:
    """A bar on a terminal, a line every half minute in a log; yields a progress callable."""

    def __init__(self, unit: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit=f" {unit}", unit_scale=True, disable=None)
        self._unit, self._start = unit, time.monotonic()
        self._next = self._start + 30

    def __enter__(self) -> Callable[..., None]:
        return self._update

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _update(self, done: int, total: int, loss: float | None = None) -> None:
        if not self._bar.disable:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() > self._next:
            self._next = time.monotonic() + 30
            left = (time.monotonic() - self._start) * (total - done) / done / 60
            trained = "" if loss is None else f", train loss {loss:.4f}"
            text = f"{done:,} of {total:,} {self._unit}{trained}, about {left:.1f} min left"
            print(text, file=sys.stderr, flush=True)
