"""What one MLflow run holds, whatever it is read from.

What makes two runs the same is a fingerprint of parameters, metrics, curves, predictions and the
digests of data and code, without times.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lantk.errors import LantkError
from lantk.tracking.values import is_measured_by_clock


class TrackingError(LantkError):
    """The results could not be read or the store could not be written; results are untouched."""


@dataclass(frozen=True)
class Run:
    """What one MLflow run holds, read from the files of one (case, variant, seed) or of a job."""

    case: str
    """Task, architecture and n, as far as the results hold several; empty where `job` is given."""
    variant: str
    seed: int | None
    params: Mapping[str, Any]
    """Few and typed; MLflow keeps their text."""
    tags: Mapping[str, str]
    data: Mapping[str, str]
    """``source`` and ``digest`` of the images; nothing where they are not known."""
    ended: float
    """When the result, or the last line of a failed job's log, was written: seconds since 1970."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    """Metric name -> (step, value) pairs."""
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    """Name in the run -> file."""
    model: Path | None = None
    """The fitted estimator, as ``lantk.load`` reads it."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    status: str = "FINISHED"
    texts: Mapping[str, str] = field(default_factory=dict)
    """Name of an artifact -> its content."""
    seconds: float = 0.0
    """How long the job took that made it; a family of variants is one job."""
    job: str = ""
    """Name of a job that failed, where more than one result is missing because of it."""

    @property
    def name(self) -> str:
        """Case and variant, and the seed where there is one; or a job that failed."""
        if self.job:
            return self.job
        return f"{self.case} {self.variant}" + ("" if self.seed is None else f" seed {self.seed}")

    @property
    def fingerprint(self) -> str:
        """Thirty-two hexadecimal digits that change when the content of the run does."""
        predictions = self.artifacts.get("predictions.csv")
        content = {
            "status": self.status,
            "params": self.params,
            "metrics": {k: v for k, v in self.metrics.items() if not is_measured_by_clock(k)},
            "curves": self.curves,
            "predictions": predictions and hashlib.sha256(predictions.read_bytes()).hexdigest(),
            "texts": self.texts,
            "data": self.data,
            "code": self.provenance.get("code"),
        }
        if self.model is not None:
            # Its files follow the results in place, but none is ever removed from a run.
            content["has_model"] = True
        return text_digest(content, 32)


def text_digest(content: Any, length: int) -> str:
    """Return the first hexadecimal digits of the SHA-256 of some content as JSON."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
