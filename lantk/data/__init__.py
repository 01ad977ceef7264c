"""Images and labels of tasks: sources, classes, splits."""

from lantk.data.base import DataError as DataError
from lantk.data.sources import cifar10_folder as cifar10_folder
from lantk.data.sources import open_source as open_source
from lantk.data.split_files import load_split as load_split
from lantk.data.split_files import save_split as save_split
from lantk.data.splits import Split as Split
from lantk.data.splits import describe as describe
from lantk.data.splits import digest_source as digest_source
from lantk.data.splits import fingerprint as fingerprint
from lantk.data.splits import split_classes as split_classes
from lantk.data.splits import split_pair as split_pair
from lantk.data.tasks import Description as Description
from lantk.data.tasks import Task as Task
from lantk.data.tasks import resolve_classes as resolve_classes
from lantk.data.tasks import resolve_pair as resolve_pair
