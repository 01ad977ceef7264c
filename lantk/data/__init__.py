"""Images and labels of tasks: sources, classes, splits."""

from lantk.data.base import DataError
from lantk.data.sources import cifar10_folder, open_source
from lantk.data.split_files import load_split, save_split
from lantk.data.splits import (
    Split,
    describe,
    digest_source,
    fingerprint,
    split_classes,
    split_pair,
)
from lantk.data.tasks import Description, Task, resolve_classes, resolve_pair

__all__ = [
    "DataError",
    "Description",
    "Split",
    "Task",
    "cifar10_folder",
    "describe",
    "digest_source",
    "fingerprint",
    "load_split",
    "open_source",
    "resolve_classes",
    "resolve_pair",
    "save_split",
    "split_classes",
    "split_pair",
]
