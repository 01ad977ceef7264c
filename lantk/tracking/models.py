"""The fitted model of a result, as the files of an MLflow model in its run.

`mlflow.pyfunc.save_model` is not called: it writes the time and a random name, so that no two of
its folders are alike, and searches all installed packages, which takes seconds.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lantk.estimators.summary import ModelSummary, summarize

# Of a run: its model is ``runs:/RUN_ID/model``.
_FOLDER = "model"
_LOADER = "lantk.estimators.pyfunc"
_NEEDS = ("numpy", "scipy", "numba", "scikit-learn")
_FILE = "model.npz"
_REQUIREMENTS, _ENVIRONMENT = "requirements.txt", "python_env.yaml"
_EXAMPLE, _POSTED_EXAMPLE = "input_example.json", "serving_input_example.json"


def model_files(path: Path, versions: Mapping[str, str]) -> dict[str, str | Path]:
    """Return name in the run -> text or file, of the model in an ``.npz`` file.

    One that does not predict by itself, such as one with a label term of the user's own, is the
    file alone, ``model.npz``.

    Parameters
    ----------
    path : Path
        What an estimator or the workflow saved.
    versions : mapping
        Of ``python`` and of packages, where the model was fitted; what is missing is of here.
    """
    import mlflow

    summary = summarize(path)
    if summary is None:
        return {_FILE: path}
    needs = [f"{name}=={versions.get(name) or version(name)}" for name in _NEEDS]
    python = versions.get("python") or platform.python_version()
    rows = summary.examples.tolist()
    files: dict[str, str | Path] = {
        "MLmodel": _mlmodel(summary, python),
        _REQUIREMENTS: "\n".join([f"mlflow=={mlflow.__version__}", *needs, ""]),
        _ENVIRONMENT: yaml.safe_dump(
            {"python": python, "dependencies": [f"-r {_REQUIREMENTS}"]}, sort_keys=False
        ),
        _EXAMPLE: json.dumps(rows),
        _POSTED_EXAMPLE: json.dumps({"inputs": rows}),
        _FILE: path,
    }
    return {f"{_FOLDER}/{name}": content for name, content in files.items()}


def _mlmodel(summary: ModelSummary, python: str) -> str:
    """Return the file that says of a folder that it is a model, without the time."""
    from mlflow.models import Model

    model = Model(
        signature=_signature(summary),
        model_uuid=None,
        saved_input_example_info={
            "artifact_path": _EXAMPLE,
            "serving_input_path": _POSTED_EXAMPLE,
            "type": "ndarray",
        },
    )
    model.add_flavor(
        "python_function",
        loader_module=_LOADER,
        data=_FILE,
        env={"virtualenv": _ENVIRONMENT},
        python_version=python,
    )
    said = {key: value for key, value in model.to_dict().items() if value is not None}
    del said["utc_time_created"]
    return yaml.safe_dump(said)


def _signature(summary: ModelSummary) -> Any:
    """Return what goes in and comes out: `lantk.estimators.pyfunc.PyfuncModel.predict`."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    rows, classes = summary.examples, summary.classes
    scores = np.dtype(np.float64), (-1, *summary.output_shape)
    if classes is None:
        outputs: list[Any] = [TensorSpec(*scores, name="values")]
    else:
        # MLflow's type of text has no length.
        kind = np.dtype(str) if classes.dtype.kind == "U" else classes.dtype
        outputs = [TensorSpec(kind, (-1,), name="classes"), TensorSpec(*scores, name="scores")]
    return ModelSignature(Schema([TensorSpec(rows.dtype, (-1, *rows.shape[1:]))]), Schema(outputs))
