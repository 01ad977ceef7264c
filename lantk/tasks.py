"""The classes of a task, under the name that scripts know: they live in `lantk.data.tasks`."""

from lantk.data.tasks import Description, Task, resolve_classes, resolve_pair, resolve_sizes

__all__ = ["Description", "Task", "resolve_classes", "resolve_pair", "resolve_sizes"]
