"""A kernel library that computes blocks of a Gram matrix on request, in a process of its own.

    python benchmarks/peer.py neural-tangents    (needs peer-requirements.txt)
    python benchmarks/peer.py reference          (our float64 recursion, to test the protocol)

It prints one JSON line when it is ready, ``{"name": ..., "versions": {...}}``, then answers each
line on standard input, ``{"layers": [...], "images": FILE.npy, "blocks": [[r0, r1, c0, c1], ...],
"dtype": "float32", "values": FILE.npy}``, with ``{"seconds": [...]}``, one number a block, after
writing the values. Images and compiled kernels are kept between requests.
"""

from __future__ import annotations

import json
import sys
import time
import types
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np

# (rows, columns, as n x channels x height x width) -> their kernel.
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def neural_tangents() -> tuple[dict[str, Any], Callable[[str], Kernel]]:
    """Return the versions, and what makes a compiled kernel of a layer list in JSON."""
    # Importing it would ask for TensorFlow; no kernel needs it.
    name = "neural_tangents.experimental"
    sys.modules[name] = types.ModuleType(name)
    import jax
    from neural_tangents import stax

    plain = {
        "relu": stax.Relu,
        "erf": stax.Erf,
        "gelu": stax.Gelu,
        "flatten": stax.Flatten,
        "global_average_pool": stax.GlobalAvgPool,
        "dense": partial(stax.Dense, 1),
    }

    def make_layer(layer: Any) -> Any:
        if isinstance(layer, str):
            return plain[layer]()
        [(kind, options)] = layer.items()
        if kind == "residual":
            branch = make_network(options)
            sides = stax.parallel(branch, stax.Identity())
            return stax.serial(stax.FanOut(2), sides, stax.FanInSum())
        if kind == "leaky_relu":
            return stax.LeakyRelu(options["slope"])
        if not options.get("trained", True):
            raise ValueError("neural-tangents trains every layer: a layer with `trained: false`")
        bias = options.get("bias") or None
        if kind == "dense":
            return stax.Dense(1, b_std=bias)
        size = options["size"]
        if kind == "average_pool":
            strides = (options.get("stride", size),) * 2
            return stax.AvgPool((size, size), strides, padding="SAME", normalize_edges=False)
        strides = (options.get("stride", 1),) * 2
        return stax.Conv(1, (size, size), strides=strides, padding="SAME", b_std=bias)

    def make_network(layers: Any) -> Any:
        return stax.serial(*map(make_layer, layers))

    @cache
    def make_kernel(layers: str) -> Kernel:
        network = make_network(json.loads(layers))
        compiled = jax.jit(network[2], static_argnums=2)

        def kernel(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            jax.config.update("jax_enable_x64", rows.dtype == np.float64)
            return np.asarray(compiled(*(np.moveaxis(x, 1, 3) for x in (rows, columns)), "ntk"))

        return kernel

    names = ("neural-tangents", "jax", "jaxlib")
    return {name: version(name) for name in names}, make_kernel


def reference() -> tuple[dict[str, Any], Callable[[str], Kernel]]:
    """Return the same of our own reference."""
    import lantk
    from lantk.kernel.reference import gram

    return {
        "lantk": lantk.__version__
    }, lambda layers: lambda x1, x2: gram(json.loads(layers), x1, x2)


PEERS = {"neural-tangents": neural_tangents, "reference": reference}


def main(name: str) -> None:
    """Answer requests until standard input ends."""
    versions, make_kernel = PEERS[name]()
    print(json.dumps({"name": name, "versions": versions}), flush=True)
    load = cache(lambda path, dtype: np.load(path).astype(dtype))
    for line in sys.stdin:
        request = json.loads(line)
        images = load(request["images"], request["dtype"])
        kernel = make_kernel(json.dumps(request["layers"]))
        values, seconds = [], []
        for top, bottom, left, right in request["blocks"]:
            start = time.perf_counter()
            values.append(kernel(images[top:bottom], images[left:right]))
            seconds.append(time.perf_counter() - start)
        np.save(request["values"], np.stack(values))
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
