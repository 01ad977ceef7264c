"""Functions compiled by Numba that Python calls: their machine code is kept on disk."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
from numba.core import cgutils
from numba.extending import intrinsic


def entry_point(
    *, sources: Sequence[str] = (), **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles, and keeps the machine code where Numba finds a place.

    Parameters
    ----------
    sources : sequence of str
        Other files that its code comes from: machine code of what they held before is not used.
    options
        As for ``numba.njit``.
    """

    def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
        # Numba itself knows the file of the function alone, and names what it keeps by this.
        digest = hashlib.sha256(b"".join(Path(source).read_bytes() for source in sources))
        function.__qualname__ += f"_{digest.hexdigest()[:12]}"
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            warnings.warn(
                "no writable folder for compiled code, so each process compiles it again (some"
                " seconds): set NUMBA_CACHE_DIR to a folder",
                RuntimeWarning,
                stacklevel=2,
            )
            return numba.njit(**options)(function)

    return compile_function


@intrinsic
def borrow(_: Any, array: Any) -> Any:
    """Return an array that does not count its references, as long as its owner lives.

    Every view counts them, in atomic operations: a tenth of the time of a loop over short rows.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = context.make_array(signature.return_type)(context, builder, arguments[0])
        found.meminfo = cgutils.get_null_value(found.meminfo.type)
        found.parent = cgutils.get_null_value(found.parent.type)
        return found._getvalue()

    return array(array), generate
