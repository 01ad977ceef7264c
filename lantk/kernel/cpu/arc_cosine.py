"""The angle of two unit vectors and its rectified product, by polynomials."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

# With t = arccos a and u = sqrt(1 - a), for a in [0, 1]:
#     t / pi = u P(a),     (sin t - t cos t) / pi = (1 - a) u Q(a).
# P and Q interpolate at Chebyshev nodes; each is given as the coefficients of its even and of its
# odd powers, highest first. They err by 7e-8 and 5e-8 (float32), 7e-17 and 4e-17 (float64).
# The last are those of R, for a in [0, 1/2], where pi / 2 - t would lose the digits of a small a:
#     arcsin(a) / pi = a R(a^2).
# It errs by 5e-9 and 2e-17 of its value.
_COEFFICIENTS = {
    "float32": (
        (0.00070271874, 0.0084663415, 0.028239844, 0.49999994),
        (-0.0034631065, -0.015483972, -0.06830357),
        (0.000817815, 0.0059442073, 0.31830984),
        (-0.0001655855, -0.002269119, -0.022531748),
        (0.013501869, 0.0076375273, 0.014489668, 0.02385636, 0.053052015, 0.31830988),
    ),
    "float64": (
        (2.4545834527761545e-05, 0.00035917933563815355, 0.001372784235706719,
         0.0026045972891601287, 0.0038733349975128774, 0.005943057955200443,
         0.010721082343777057, 0.028345056903689086, 0.49999999999999994),
        (-2.4222154464628605e-06, -0.0001177844587744955, -0.0007921360610044177,
         -0.0019999611902253977, -0.003201777500060482, -0.004735126002480737,
         -0.007758532379498989, -0.016167854825418236, -0.06830988618374995),
        (1.649376186704804e-07, 7.434831161612078e-06, 4.766361876502399e-05,
         0.00012457192848009318, 0.0002378435243108472, 0.0004825479457405278,
         0.001269165061727713, 0.005985979685623932, 0.31830988618379064),
        (-1.6069698777006544e-06, -2.200141949987055e-05, -8.28044617601184e-05,
         -0.0001738180142477207, -0.0003315816988493278, -0.0007481264083704761,
         -0.0024647093012735936, -0.022535170724304904),
        (0.010147598659675072, -0.005152606991585093, 0.00621132985810709,
         0.0020783413779872934, 0.003873875430185169, 0.004419682739751869,
         0.005525789481813799, 0.0071211491112956994, 0.009670878133410672,
         0.014210262668836788, 0.023873241465010436, 0.05305164769729295,
         0.3183098861837907),
    ),
}  # fmt: skip


def coefficients(dtype: DTypeLike) -> tuple[Any, ...]:
    """Return the coefficients of P, Q and R, and the |c| that counts as 1, in the type of `dtype`.

    Where c should be 1, rounding leaves it a unit in the last place below, and an angle of that
    unit's square root in place of 0. Taking that unit for 1 makes near duplicates 2 to 6 times more
    accurate and costs other pairs nothing (measured on real images).
    """
    real, eps = np.dtype(dtype).type, np.finfo(dtype).eps
    powers = (tuple(map(real, part)) for part in _COEFFICIENTS[np.dtype(dtype).name])
    return (*powers, real(1 - eps))
