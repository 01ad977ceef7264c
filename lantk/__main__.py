"""The command line: ``python -m lantk VERB``. Parse, load, call one function, save.

Verbs import what they need when they run, so that ``--threads`` is in force before any library
that starts threads is loaded.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from lantk.errors import LantkError
from lantk.options import OPTIONS
from lantk.verbs import evaluations, kernels, store, tables

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    args = _parser().parse_args(argv)
    # A scheduler's time limit ends a job this way: unwind, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.threads is not None:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(args.threads)))
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"lantk {args.verb}: interrupted; no file is half-written", file=sys.stderr)
        return 130
    except Exception as error:
        # Our own errors and the system's say what to change; anything else is a fault of ours,
        # and shows where.
        if not isinstance(error, LantkError | OSError):
            traceback.print_exc()
        print(f"lantk {args.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lantk", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(run: Callable[[argparse.Namespace], None], *options: str) -> None:
        text = run.__doc__ or ""
        name = run.__name__.replace("_", "-")
        sub = verbs.add_parser(name, help=text, description=text)
        for option in (*options, "threads"):
            keywords = dict(OPTIONS[option])
            sub.add_argument(keywords.pop("flag", f"--{option}"), **keywords)
        sub.set_defaults(run=run)

    sizes = ("n-train", "n-test", "seed")
    planned = ("plan-n-train", "plan-n-test", "image", "memory-mb", "plan-bands", "rate")
    grids = ("honest-weights", "oracle-weights", "honest-ridges", "oracle-ridges")
    weights = ("protocols", *grids, "folds", "fold-seed")
    training = ("epochs", "batch-size", "learning-rate", "loss", "targets", "channels", "seed")
    listing = ("results", "cases", "variants", "seeds", "permutations")
    verb(kernels.fetch, "source", "path", "out")
    verb(kernels.split, "source", "path", "pair", "classes", *sizes, "scaling", "out")
    verb(
        kernels.gram,
        "split",
        "architectures",
        "device",
        "memory-mb",
        "bands",
        "band",
        "out-folders",
    )
    verb(kernels.plan, "architecture", "device", *planned)
    verb(evaluations.label_term, "split", "gram", "case-n-train", "variant", "estimator", "out")
    family = ("case", "case-n-train", "family", "permutations", "estimator")
    verb(
        evaluations.evaluate,
        "split",
        "gram",
        *family,
        "label-term",
        *weights,
        "device",
        "out-folder",
    )
    described = ("split", "case", "case-n-train", "architecture")
    verb(evaluations.cnn, *described, *training, "device", "protocols", "variant", "out")
    verb(tables.table, *listing, "table-bands")
    verb(tables.figure, *listing, "kind", "out")
    verb(tables.results, "results-folders", "experiments", "data-note", "out")
    drawing = ("case", "case-n-train", "variant", "estimator", "label-term", "evaluation", "out")
    verb(evaluations.heat_map, "split", "gram", *drawing)
    verb(store.track, "results", "config", "out")
    verb(store.show, "results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
