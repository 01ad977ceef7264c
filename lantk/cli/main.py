"""The command line: ``lantk VERB``. Parse, load, call one function, save.

Verbs import what they need when they run, so that ``--threads`` is in force before any library
that starts threads is loaded.
"""

from __future__ import annotations

import argparse
import inspect
import os
import select
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lantk import __version__
from lantk.cli import evaluations, kernels, models, predictions, store, tables
from lantk.cli.files import in_source
from lantk.cli.options import EXAMPLES, OPTIONS
from lantk.errors import LantkError
from lantk.workflow.lease import end_with_workflow

_THREAD_VARIABLES = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")]

# What an extra brings, by the names of its modules.
_EXTRAS = {
    "network": {"torch"},
    "study": {
        *("PIL", "alembic", "jinja2", "matplotlib", "mlflow", "pandas", "pooch"),
        *("psutil", "pyarrow", "pydantic", "requests", "snakemake", "sqlalchemy", "tqdm", "yaml"),
    },
}

_HELP_WIDTH = 96
_UNREAD = 128 + signal.SIGPIPE
_AGAIN_SECONDS = 0.1
_Verb = Callable[[argparse.Namespace], int | None]

_SIZES = ("n-train", "n-test", "balance", "seed")
_PLANNED = ("plan-n-train", "plan-n-test", "image", "layout", "memory-mb", "plan-bands", "rate")
_GRIDS = ("honest-weights", "oracle-weights", "honest-ridges", "oracle-ridges")
_FAMILY = (
    "case",
    "case-n-train",
    "family",
    "permutations",
    "first-permutation",
    "estimator",
    "label-term",
)
_CHOOSING = ("protocols", *_GRIDS, "folds", "fold-seed")
_TRAINING = ("epochs", "batch-size", "learning-rate", "loss", "targets", "channels", "seed")
_DRAWING = ("case", "case-n-train", "variant", "estimator", "label-term", "protocols", "evaluation")
_LISTING = ("results", "cases", "variants", "seeds", "listed-permutations", "listed-protocols")
_COMPUTING = ("device", "threads")

# Group -> verb -> its options, in the order of use.
_VERBS: dict[str, dict[_Verb, tuple[str, ...]]] = {
    "From images to Gram matrices": {
        kernels.fetch: ("source", "path", "layout", "out"),
        kernels.split: (
            *(
                "source",
                "path",
                "layout",
                "pair",
                "classes",
                *_SIZES,
                "scaling",
                "whitening",
                "out-npz",
            ),
        ),
        kernels.plan: ("architecture", "flips", *_PLANNED, *_COMPUTING),
        kernels.gram: (
            *("split", "architectures", "flips", "memory-mb", "bands", "band", *_COMPUTING),
            *("out-folders", "cost"),
        ),
    },
    "From Gram matrices to results": {
        evaluations.label_term: (
            *("split", "gram", "case-n-train", "variant", "estimator", "threads"),
            "out-npz",
        ),
        evaluations.evaluate: (
            *("split", "gram", *_FAMILY, *_CHOOSING, *_COMPUTING),
            "out-folder",
        ),
        models.models: (
            *("split", "case-n-train", "family", "evaluations", "models", "out-folder"),
        ),
        evaluations.cnn: (
            *("split", "case", "case-n-train", "architecture", *_TRAINING, *_COMPUTING),
            *("protocols", "variant", "kept-models", "weights", "out-json"),
        ),
        evaluations.after_kernels: (
            *("split", "case", "case-n-train", "architecture", "network-kernels", "taps"),
            *("batch-size", "one-learning-rate", "loss", "targets", "channels"),
            *("parameterization", "seed", "protocols", *_GRIDS),
            *("folds", "fold-seed", "held-out", *_COMPUTING, "out-folder"),
        ),
        evaluations.heat_map: ("split", "gram", *_DRAWING, "threads", "out-figure"),
    },
    "What the results say": {
        tables.collect: (*_LISTING, "table-bands"),
        tables.table: _LISTING,
        tables.figure: (*_LISTING, "kind", "out-figure"),
        tables.report: (*_LISTING, "out-html"),
        tables.failures: (*_LISTING, "resume"),
    },
    "New images": {
        predictions.predict: ("model", "images", "layout", "own-term", *_COMPUTING, "out-csv"),
    },
}
# The same of the verbs behind `mlflow`.
_MLFLOW_VERBS: dict[str, dict[_Verb, tuple[str, ...]]] = {
    "Runs of a results folder": {
        store.sync: (*_LISTING, "config"),
        store.verify: ("results",),
        store.rebuild: ("results",),
        store.links: ("results", "short"),
        store.dashboard: ("results", "port"),
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status.

    Where nobody reads any more what is printed, as behind ``| head``, that is 141, as of a program
    that the signal SIGPIPE ends; nothing is said, since nothing is wrong.
    """
    _open_closed_streams()
    report = sys.unraisablehook
    sys.unraisablehook = partial(_keep_signal, report)
    try:
        return _run(argv)
    except BrokenPipeError:
        return _UNREAD
    finally:
        sys.unraisablehook = report
        _flush_streams()


def _flush_streams() -> None:
    """Write what is left to be printed, or exit with what it says where that cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # Python would try again when it ends.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if isinstance(error, BrokenPipeError):
                sys.exit(_UNREAD)
            sys.exit(f"lantk: {stream.name} cannot be written: {error}")


def _open_closed_streams() -> None:
    """Let what a shell has closed (``>&-``) lead nowhere.

    The next file that is opened would be taken for it, by whatever prints past Python.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    # A scheduler's time limit, or a terminal that is closed, ends a job this way: unwind, so that
    # unfinished files are removed.
    signal.signal(signal.SIGTERM, _raise_terminated)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _raise_terminated)
    workflow_ended = end_with_workflow()
    if vars(args).get("threads") is not None:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(args.threads)))
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print(f"lantk {args.called}: interrupted; no file is half-written", file=sys.stderr)
        return 130
    except _Terminated as ended:
        text = f"ended from outside ({ended.name}), as by a time limit; no file is half-written"
        if workflow_ended.is_set():
            text = "interrupted; its workflow has ended; no file is half-written"
        print(f"lantk {args.called}: {text}", file=sys.stderr)
        return int(ended.code or 1)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            raise
        # Our own errors, the system's and a missing extra say what to change; anything else is a
        # fault of ours, and shows where.
        missing = _missing_extra(error)
        if missing is None and not isinstance(error, LantkError | OSError):
            traceback.print_exc()
        print(f"lantk {args.called}: {missing or in_source(args, error)}", file=sys.stderr)
        return 1


def _is_unread() -> bool:
    """Return whether nobody reads a standard stream any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # one that is no file
            poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _missing_extra(error: Exception) -> str | None:
    """Say which extra brings the package that a verb misses, if that is what is wrong."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    for extra, modules in _EXTRAS.items():
        if module in modules:
            return (
                f"{module} is not installed in this Python ({sys.executable}), and this verb needs"
                f" it: pip install '.[{extra}]' in a checkout of lantk brings it"
            )
    return None


class _Terminated(SystemExit):
    """SIGTERM or SIGHUP arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


def _raise_terminated(number: int, _: object) -> None:
    raise _Terminated(number)


def _keep_signal(report: Callable[[Any], Any], ignored: Any) -> None:
    """Send a signal again that Python has lost, since it arrived in what takes no exception.

    That is so in a finalizer, of which libraries have many. Anything else is reported as ever.
    """
    number = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}.get(ignored.exc_type)
    if number is None:
        report(ignored)
        return
    later = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
    later.daemon = True
    later.start()


def _parser() -> argparse.ArgumentParser:
    program = "lantk" if Path(sys.argv[0]).name == "lantk" else "python -m lantk"
    parser = argparse.ArgumentParser(prog=program, usage=f"{program} VERB [options]")
    parser.add_argument("--version", action="version", version=f"lantk {__version__}")
    verbs, listed = _add_verbs(parser, _VERBS)
    mlflow = verbs.add_parser("mlflow", usage=f"{program} mlflow VERB [options]")
    _, of_mlflow = _add_verbs(mlflow, _MLFLOW_VERBS, "mlflow ")
    text = "Log results as MLflow runs, and look after them"
    _, _, without_title = of_mlflow.partition("\n")
    parser.description = (
        "Exact neural tangent kernels, and what labels add to them. The workflow (snakemake) runs\n"
        "these verbs in this order; each works by hand as well. What one does and takes, with an\n"
        f"example: {program} VERB --help\n\n{listed}\n\n{text}\n{without_title}"
    )
    mlflow.description = f"{text}.\n\n{of_mlflow}"
    return parser


def _add_verbs(
    parser: argparse.ArgumentParser,
    groups: dict[str, dict[_Verb, tuple[str, ...]]],
    start: str = "",
) -> tuple[Any, str]:
    """Add the verbs of some groups to a parser; return what took them, and their list as text."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(
        required=True, metavar="VERB", prog=parser.prog, help=argparse.SUPPRESS
    )
    texts = []
    for title, members in groups.items():
        texts.append(title)
        for run, options in members.items():
            name = run.__name__.replace("_", "-")
            paragraphs = (inspect.getdoc(run) or "").split("\n\n")
            sub = verbs.add_parser(
                name,
                description="\n\n".join(textwrap.fill(text, _HELP_WIDTH) for text in paragraphs),
                epilog=f"example:\n  {parser.prog} {name} {EXAMPLES[start + name]}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            for option in options:
                keywords = dict(OPTIONS[option])
                sub.add_argument(keywords.pop("flag", f"--{option}"), **keywords)
            sub.set_defaults(run=run, called=start + name)
            line = textwrap.fill(
                paragraphs[0],
                _HELP_WIDTH,
                initial_indent=f"  {start + name:<16}  ",
                subsequent_indent=" " * 20,
            )
            texts[-1] += f"\n{line}"
    return verbs, "\n\n".join(texts)
