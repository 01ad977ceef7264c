"""Models as MLflow's "python function": what ``mlflow.pyfunc.load_model`` and its server run.

MLflow imports this module by its name and gives it the file; nothing here needs MLflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.estimators.model import load


def _load_pyfunc(path: str) -> PyfuncModel:
    """Return the model of a file that `save` wrote, on the device and threads of this machine."""
    return PyfuncModel(load(path).set_params(device="auto", threads=None))


class PyfuncModel:
    """A fitted estimator with one method, whose answer can be written as JSON."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def predict(
        self, model_input: ArrayLike, params: dict[str, Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return what the estimator says of rows.

        Parameters
        ----------
        model_input : (m, channels, height, width) or (m, d) array
            Rows like those that the estimator was fitted on, unscaled.
        params : dict, optional
            What MLflow may pass; nothing depends on it.

        Returns
        -------
        dict
            Of a classifier ``classes`` (m,) and ``scores``, (m,) of two classes, positive for the
            second, else (m, k). Of a regressor ``values``, as ``predict`` returns them.
        """
        x = np.asarray(model_input)
        if not hasattr(self.estimator, "decision_function"):
            return {"values": self.estimator.predict(x)}
        # Kernels are computed once, and both are read off them.
        scores = self.estimator.decision_function(x)
        return {"classes": self.estimator.classes_of(scores), "scores": scores}
