"""What is told apart: the classes of a task, what they are called, how many images they give.

A task is a class pair, or three or more classes at once.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral

from lantk.data.base import DataError, same_names
from lantk.errors import shorten

# Class labels are int8.
_MOST_CLASSES = 128
# File systems take names of 255 bytes, and more than the slug stands in one.
_LONGEST_SLUG = 150
# How many times the images of the smallest class the largest may have without a warning.
_UNEQUAL = 3
# Classes whose numbers of images are listed in a line.
_LISTED = 10
_POSITION = re.compile(r"#(\d{1,9})", re.ASCII)
# Whole numbers as YAML 1.1 writes them, without its base 60.
_YAML_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(0b(?P<b2>[01_]+)|0(?P<b8>[0-7_]+)|0x(?P<b16>[\da-fA-F_]+)|(?P<b10>0|[1-9][\d_]*))",
    re.ASCII,
)
QUOTING = (
    "YAML reads 010, 0x1, 1_0, 1.5, yes, no, on, off, null, ~ and 2024-01-31 as something else than"
    " names, unless they stand in quotes"
)


@dataclass(frozen=True)
class Description:
    """What a source holds, known without its pixels."""

    source: str
    class_names: tuple[str, ...]
    """Names of the classes; the position is the class number. Labels that are whole numbers
    stand as text."""
    train_counts: tuple[int, ...]
    """Train images of each class."""
    test_counts: tuple[int, ...] | None
    """Test images of each class; None for a source without a test set."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of every image."""


@dataclass(frozen=True)
class Task:
    """Classes to tell apart: two are a class pair, labelled -1 and +1; k, labelled 0 ... k - 1."""

    numbers: tuple[int, ...]
    """Their class numbers, ascending."""
    names: tuple[str, ...]
    slug: str
    """The name in paths and commands, ``deer-dog`` or ``all``: letters, digits, ``_ . -``."""


def resolve_pair(description: Description, pair: Sequence[str | int]) -> Task:
    """Return the class pair that two entries mean, in either order.

    An entry is the name of a class; or, of a source whose labels are whole numbers, the label; or
    a position among the sorted classes, written ``"#0"``. Names compare after Unicode's
    normalisation NFC. The folders of ``images`` have names alone.

    Raises
    ------
    DataError
        If a class is unknown or the two are equal.

    Examples
    --------
    >>> digits = Description("digits", tuple("0123456789"), (170,) * 10, None, (1, 8, 8))
    >>> resolve_pair(digits, [8, "3"]).slug
    '3-8'
    >>> own = Description("images", ("ant", "bee"), (9, 9), (9, 9), (1, 8, 8))
    >>> resolve_pair(own, ["#1", "ant"]).slug
    'ant-bee'
    """
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise DataError(
            f"class pair {shorten(repr(pair))}: wanted two classes, such as [3, 8] or [deer, dog]"
        )
    return _make_task(description, [_class_number(description, entry) for entry in pair], pair)


def resolve_classes(description: Description, classes: str | Sequence[str | int]) -> Task:
    """Return the task that three or more entries mean, each as in `resolve_pair`, in any order.

    The word ``"all"`` means every class of the source.

    Raises
    ------
    DataError
        If a class is unknown or comes twice, or there are fewer than three or too many.

    Examples
    --------
    >>> digits = Description("digits", tuple("0123456789"), (170,) * 10, None, (1, 8, 8))
    >>> resolve_classes(digits, "all").slug, resolve_classes(digits, [8, "3", 0]).slug
    ('all', '0-3-8')
    """
    names = description.class_names
    is_list = isinstance(classes, Sequence) and not isinstance(classes, str)
    if not is_list and classes != "all":
        raise DataError(f"classes is {shorten(repr(classes))}: wanted all, or a list of classes")
    asked = classes if is_list else names
    if not 3 <= len(asked) <= _MOST_CLASSES:
        raise DataError(
            f"classes is {shorten(repr(classes))}, {len(asked)} of the {len(names)} classes"
            f" of {description.source}: wanted 3 to {_MOST_CLASSES} of them (two are a class pair)"
        )
    numbers = [_class_number(description, c) for c in asked] if is_list else range(len(names))
    return _make_task(description, numbers, asked)


def _make_task(
    description: Description, given: Iterable[int], entries: Sequence[str | int]
) -> Task:
    names, numbers = description.class_names, tuple(sorted(given))
    for one, next_one in pairwise(numbers):
        if one == next_one:
            raise DataError(
                f"{shorten(repr(list(entries)))} names the class {names[one]!r} twice: wanted"
                " different classes"
            )
    is_all = 2 < len(numbers) == len(names)
    slug = "all" if is_all else "-".join(_class_slug(names, number) for number in numbers)
    if len(slug) > _LONGEST_SLUG:
        digest = hashlib.sha256(str(numbers).encode()).hexdigest()[:8]
        slug = f"{slug[: _LONGEST_SLUG - 9]}-{digest}"
    return Task(numbers, tuple(names[number] for number in numbers), slug)


def _class_number(description: Description, entry: str | int) -> int:
    """Return the number of the class that an entry of a configuration or command means."""
    names, source = description.class_names, description.source
    # Of CIFAR-10 labels are numbers, and names what people call them; folders have names alone.
    labels = {"cifar10": [*map(str, range(len(names)))], "images": []}.get(source, names)
    hint = ""
    if isinstance(entry, str):
        position = _POSITION.fullmatch(entry)
        if position is not None and (number := int(position[1])) < len(names):
            if entry in names and names[number] != entry:
                raise DataError(
                    f"{entry!r} is the position of the class {shorten(repr(names[number]))} in"
                    f" {source}, and the name of another one: rename that"
                )
            return number
        name = same_names([entry], names).get(entry, entry)
        known = names if name in names else labels
        if name in known:
            return known.index(name)
    elif isinstance(entry, Integral) and not isinstance(entry, bool):
        alike = [name for name in labels or names if _yaml_number(name) == entry]
        if labels and alike == [str(entry)]:
            return labels.index(alike[0])
        if alike or not labels:
            written = ", ".join(shorten(repr(name)) for name in alike)
            hint = f"write its name in quotes{written and f', {written}'}. {QUOTING}. "
    else:
        hint = f"write its name in quotes. {QUOTING}. "
    close = "" if hint else difflib.get_close_matches(str(entry), names, n=1)
    hint = f"did you mean {shorten(repr(close[0]))}? " if close else hint
    shown = ", ".join(f"#{i}: {shorten(repr(name), 60)}" for i, name in enumerate(names[:20]))
    raise DataError(
        f"unknown class {shorten(repr(entry))} in {source}: {hint}There are {len(names)} classes:"
        f" {shown}{', ...' if len(names) > 20 else ''} (a position is written in quotes, '#0')"
    )


def _yaml_number(text: str) -> int | None:
    """Return the whole number as which YAML reads a text that stands without quotes."""
    found = _YAML_NUMBER.fullmatch(text)
    if found is None:
        return None
    base, digits = next((b, d) for b in (2, 8, 16, 10) if (d := found[f"b{b}"]) is not None)
    digits = digits.replace("_", "")
    return int(f"{found['sign']}{digits}", base) if digits else None


def _class_slug(names: tuple[str, ...], number: int) -> str:
    """Return a text for a class, safe in paths and shells and different for every class.

    It has no ``-``, which joins the classes of a task. A plain name stays as it is and has no
    ``.``; any other has its class number after one. Names that differ in case only are not plain,
    because some file systems take them for one.
    """
    name = names[number]
    is_alone = sum(other.casefold() == name.casefold() for other in names) == 1
    if is_alone and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,39}", name):
        return name
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')[:40] or 'class'}.{number}"


def resolve_sizes(
    description: Description,
    task: Task,
    n_train: int | None,
    n_test: int | None,
    *,
    balance: bool = False,
) -> tuple[int, int]:
    """Return how many train and test images of a task to take: the sums of `class_sizes`."""
    n_of_train, n_of_test = class_sizes(description, task, n_train, n_test, balance=balance)
    return sum(n_of_train), sum(n_of_test)


def class_sizes(
    description: Description,
    task: Task,
    n_train: int | None,
    n_test: int | None,
    *,
    balance: bool = False,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many train and test images of each class of a task to take.

    A number is a multiple of the number of classes k, and takes as many of each; None takes all
    there is, or with `balance` as many of each class as the smallest has. A source without a test
    set tests on what `n_train` leaves, as many of each class.

    Raises
    ------
    DataError
        If a number is no multiple of k, below k, or more than there is.
    """
    k = len(task.names)
    if description.test_counts is not None:
        parts = (
            ("n_train", n_train, description.train_counts, "train images"),
            ("n_test", n_test, description.test_counts, "test images"),
        )
        taken = []
        for key, value, counts, kind in parts:
            most, found = _most(description, task, counts, kind)
            is_equal = len({counts[c] for c in task.numbers}) == 1
            other = "" if is_equal else ", or null, which takes all there is"
            size = check_size(key, value, k, most, found, other)
            is_cut = value is not None or balance
            taken.append(tuple(size // k if is_cut else counts[c] for c in task.numbers))
        return taken[0], taken[1]
    most, found = _most(description, task, description.train_counts, "images")
    if n_train is None:
        raise DataError(
            f"n_train is null, which takes all there is: {found} and no test set, so nothing is"
            f" left to test on. Set n_train to {_multiple(k, most - k)}"
        )
    n_train = check_size("n_train", n_train, k, most - k, f"{found} and no test set")
    found += f", of which n_train takes {n_train}"
    n_test = check_size("n_test", n_test, k, most - n_train, found)
    return (n_train // k,) * k, (n_test // k,) * k


def counts_text(counts: Sequence[int]) -> str:
    """Return how many images the classes have, in the order of the task.

    Examples
    --------
    >>> counts_text((20, 20)), counts_text((30, 130)), counts_text(range(1, 12))
    ('20 of each class', '30 + 130', '1 to 11 of a class')
    """
    if len(set(counts)) == 1:
        return f"{counts[0]:,} of each class"
    if len(counts) > _LISTED:
        return f"{min(counts):,} to {max(counts):,} of a class"
    return " + ".join(f"{n:,}" for n in counts)


def imbalance_warning(task: str, train: Sequence[int], test: Sequence[int]) -> str:
    """Return a warning where the classes of a task differ by more than 3:1, else nothing."""
    parts = ((train, "train"), (test, "test"))
    found = [
        f"{counts_text(counts)} {part} images"
        for counts, part in parts
        if max(counts) > _UNEQUAL * min(counts)
    ]
    if not found:
        return ""
    return (
        f"the classes of {task} differ by more than {_UNEQUAL}:1 ({', '.join(found)}), and accuracy"
        " follows the larger ones: see the balanced accuracy in report or records, or take as many"
        " of each with task.balance"
    )


def _most(
    description: Description, task: Task, counts: tuple[int, ...], kind: str
) -> tuple[int, str]:
    """Return k times the smallest class of a task, and what was found, as text."""
    of_task = [counts[number] for number in task.numbers]
    smallest = min(of_task)
    listed = f"{of_task[0]} {kind} of {task.names[0]!r} and {of_task[1]} of {task.names[1]!r}"
    if len(task.names) > 2:
        listed = f"{smallest} {kind} of {task.names[of_task.index(smallest)]!r}, the smallest class"
    return len(of_task) * smallest, f"{description.source} has {listed}"


def check_size(key: str, value: int | None, k: int, most: int, found: str, other: str = "") -> int:
    """Return a number of images that is a multiple of k, at most `most`, which None stands for.

    What the number is called, what was found and what else could be given are for the message.
    """
    if most < k:
        raise DataError(f"{found}: wanted at least one image of each class for {key}")
    if value is None:
        return most
    if not isinstance(value, Integral) or value % k or not k <= value <= most:
        share = "half" if k == 2 else f"1/{k}"
        raise DataError(
            f"{key} is {value!r}, but {share} of it comes from each class and {found}: wanted"
            f" {_multiple(k, most)}{other}"
        )
    return int(value)


def _multiple(k: int, most: int) -> str:
    return f"{'an even number' if k == 2 else f'a multiple of {k}'} from {k} to {most}"
