"""Random architectures that the grammar accepts: `from kernel.random_architectures import ...`."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from lantk.kernel.architecture import (
    ACTIVATIONS,
    READOUTS,
    Activation,
    Architecture,
    AveragePool,
    Conv,
    Dense,
    Layer,
    Residual,
)

_BIASES = (0.0, 0.0, 0.1, 0.5)
_SLOPES = (-0.5, 0.0, 0.2, 1.0)


@st.composite
def architectures(
    draw: st.DrawFn,
    *,
    max_layers: int = 5,
    max_side: int = 9,
    max_dense: int = 3,
    max_stride: int = 3,
    activations: Sequence[str] = ACTIVATIONS,
    readouts: Sequence[str] = READOUTS,
    pools: bool = True,
    residuals: bool = True,
    biases: bool = True,
    untrained: bool = True,
) -> Architecture:
    """Draw an architecture, with a layer trained.

    `max_layers` bounds the convolutions, pools and residuals before the readout (a residual holds
    up to three convolutions of its own), `max_dense` the dense layers behind it, and `max_side` is
    the longest side of the images, beyond which no filter or window reaches. The others say what
    it may hold: no `activations` make it linear.
    """
    sizes = [size for size in (1, 3, 5) if size < 2 * max_side]
    windows = [size for size in (1, 2, 3, 4) if size < 2 * max_side]
    strides = st.integers(1, max(1, min(max_stride, max_side)))

    def draw_bias() -> float:
        return draw(st.sampled_from(_BIASES)) if biases else 0.0

    def draw_trained() -> bool:
        return draw(st.booleans()) if untrained else True

    def draw_conv(stride: int = 1) -> Conv:
        return Conv(draw(st.sampled_from(sizes)), stride, draw_bias(), draw_trained())

    def draw_activation() -> list[Activation]:
        """Draw one or none."""
        kind = draw(st.sampled_from([None, *activations]))
        if kind is None:
            return []
        return [Activation(kind, draw(st.sampled_from(_SLOPES)) if kind == "leaky_relu" else 0.0)]

    def draw_branch(is_gaussian: bool, depth: int = 0) -> tuple[Layer, ...]:
        layers: list[Layer] = [*draw_activation()] if is_gaussian else []
        if depth == 0 and draw(st.integers(0, 4)) == 4:
            layers.append(Residual(draw_branch(is_gaussian and not layers, depth + 1)))
        if draw(st.booleans()):
            layers += [draw_conv(), *draw_activation()]
        return (*layers, draw_conv())

    body: list[Layer] = []
    is_gaussian = False
    kinds = ["conv", "conv", *["pool"] * pools]
    for _ in range(draw(st.integers(0, max_layers))):
        has_channels = any(isinstance(layer, Conv) for layer in body)
        match draw(st.sampled_from([*kinds, *["residual"] * (residuals and has_channels)])):
            case "conv":
                body.append(draw_conv(draw(strides)))
                is_gaussian = True
            case "pool":
                body.append(AveragePool(draw(st.sampled_from(windows)), draw(strides)))
                is_gaussian = False
            case _:
                body.append(Residual(draw_branch(is_gaussian)))
        if is_gaussian and (found := draw_activation()):
            body += found
            is_gaussian = False
    head: list[Dense | Activation] = []
    for _ in range(draw(st.integers(1, max_dense)) - 1):
        head += [Dense(draw_bias(), draw_trained()), *draw_activation()]
    readout, bias, trained = draw(st.sampled_from(list(readouts))), draw_bias(), draw_trained()
    found = Architecture(tuple(body), readout, (*head, Dense(bias, trained)))
    if found.trained_layers:
        return found
    return Architecture(tuple(body), readout, (*head, Dense(bias, True)))
