"""The state of an unfinished training on disk, so that an interrupted command can go on."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lantk.errors import LantkError
from lantk.files import writing

_ROOT = Path(__file__).parents[2]
_SECONDS_BETWEEN = 60.0


def save_weights(path: Path, network: torch.nn.Module, about: Mapping[str, Any]) -> None:
    """Write the weights of a trained network, and what it takes to make another like it.

    ``torch.load(path, weights_only=True)`` returns `about` with ``state_dict``.
    """
    torch.save({**about, "state_dict": network.state_dict()}, path)


class CheckpointError(LantkError):
    """A file that holds no state to go on from; the message says why."""


class Checkpoint:
    """One file that holds the latest state of one computation.

    Parameters
    ----------
    path : Path
        The file; it appears whole or not at all.
    settings : mapping
        All that the computation depends on, as JSON writes it. A state of other settings, other
        code or another PyTorch is refused.
    code : sequence of str
        Files that the state depends on, from the project's root, such as `workflow.code_of` finds.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], code: Sequence[str]) -> None:
        self.path = path
        digest = hashlib.sha256(b"".join((_ROOT / name).read_bytes() for name in code))
        versions = {"code": digest.hexdigest(), "torch": torch.__version__}
        self._origin = json.dumps({**settings, **versions}, sort_keys=True)
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state, its tensors on the CPU; None if there is no file.

        Raises
        ------
        CheckpointError
            If the file is broken or of another computation.
        """
        if not self.path.exists():
            return None
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            origin, state = found["origin"], found["state"]
        except (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{self.path} is broken and not used ({type(error).__name__})"
            ) from error
        if origin != self._origin:
            raise CheckpointError(
                f"{self.path} is of other settings, images or code and is not used"
            )
        return dict(state)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state of tensors, numbers, text, lists and dictionaries, once a minute."""
        if time.monotonic() - self._saved_at < _SECONDS_BETWEEN:
            return
        with writing(self.path) as temporary:
            torch.save({"origin": self._origin, "state": dict(state)}, temporary)
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Remove the file, if there is one: the computation is finished."""
        self.path.unlink(missing_ok=True)
