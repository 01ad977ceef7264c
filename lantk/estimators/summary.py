"""What the file of a model says of itself, read without loading what predicts.

This is for those who pass models on, such as `tracking`: an import of the estimators takes seconds.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lantk.archives import NpzArchive, opening_npz
from lantk.errors import LantkError

FORMAT = 1
"""Version of the format, raised by every change that an older reader would misread."""
_OURS = "lantk.label_terms."


class ModelError(LantkError):
    """A model that cannot be written or read; the message says why."""


@dataclass(frozen=True)
class ModelSummary:
    """What others need to know of a model that predicts from its file alone."""

    examples: NDArray[Any]
    """The first train rows, unscaled, as ``predict`` takes them."""
    classes: NDArray[Any] | None
    """Names of the classes, ascending; None of a regressor."""
    output_shape: tuple[int, ...]
    """Of the scores or values of one row: () or (k,)."""


def summarize(path: str | os.PathLike[str], n_examples: int = 2) -> ModelSummary | None:
    """Return what the file of a model says of itself.

    It is None of a model that takes more than its file and rows: a label term of the user's own,
    or Gram matrices.

    Raises
    ------
    ModelError
        If the file is missing, broken, no model, or of a later format.
    """
    file = Path(path)
    with opening_npz(file, "save the model again", ModelError) as archive:
        about = read_about(file, archive)
        term, attributes = about["term"], about["attributes"]
        if "images" not in list(archive) or (term is not None and not is_ours(term["class"])):
            return None
        # No more of them is read.
        examples = next(archive.blocks("images", n_examples))
        n_features = attributes["n_features_in_"]
        # Of vectors and flattened images, each value is a feature; of images, each channel.
        if math.prod(examples.shape[1:]) == n_features:
            examples = examples.reshape(len(examples), n_features)
        (_, _, n_outputs), _ = archive.header("dual")
        is_flat = n_outputs == 1 and not attributes.get("_is_column")
        return ModelSummary(examples, archive.get("classes"), () if is_flat else (n_outputs,))


def read_about(file: Path, archive: NpzArchive) -> dict[str, Any]:
    """Return what an open file of a model holds beside its arrays; refuse what is none."""
    if "about" not in list(archive):
        raise ModelError(f"{file} holds no model: wanted what `save` of an estimator wrote")
    about: dict[str, Any] = json.loads(str(archive["about"]))
    if about["format"] > FORMAT:
        raise ModelError(
            f"{file} is of format {about['format']}, and this version reads {FORMAT}: take a"
            " newer lantk"
        )
    return about


def is_ours(name: str) -> bool:
    """Return whether a label term, named by module or as ``module:Class``, is of this package."""
    return name.startswith(_OURS)
