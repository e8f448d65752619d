"""A concave function of a few multipliers from above: planes, their highest point, and the box around it."""

from __future__ import annotations

from typing import Any

import numpy as np


def linear_program(*args: Any, **kwargs: Any) -> Any:
    """``scipy.optimize.linprog`` by HiGHS at its tightest tolerances.

    Raises:
        ImportError: without scipy, with what to install.
    """
    try:
        from scipy.optimize import linprog
    except ImportError as missing:
        raise ImportError("cops: several controls need scipy; install it with: pip install 'fbconv[cops]'") from missing
    tolerances = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    return linprog(*args, method="highs", options=tolerances, **kwargs)


class Planes:
    """The minimum of ``value_j + slope_j . x`` over the planes added so far.

    Example:
        >>> planes = Planes()
        >>> planes.add(0.0, np.array([1.0]))
        >>> planes.add(3.0, np.array([-2.0]))
        >>> point, height = planes.highest(np.array([0.0]), np.array([10.0]))
        >>> float(point[0]), height
        (1.0, 1.0)
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self.slopes: list[np.ndarray] = []

    def add(self, value: float, slope: np.ndarray) -> None:
        self.values.append(value)
        self.slopes.append(slope)

    def at(self, point: np.ndarray) -> float:
        return float(min(v + s @ point for v, s in zip(self.values, self.slopes, strict=True)))

    def highest(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, float]:
        """The highest point within bounds, and its height."""
        slopes, units, scaled = self._scaled()
        found = linear_program(
            np.append(np.zeros(len(units)), -1.0),
            A_ub=np.column_stack([-slopes, np.ones(len(slopes))]),
            b_ub=scaled,
            bounds=[*zip(lower / units, upper / units, strict=True), (None, None)],
        )
        point = lower if found.status != 0 else np.clip(found.x[:-1] * units, lower, upper)
        return point, self.at(point)

    def box(self, floor: float, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of all points within the old bounds where no plane lies below ``floor``."""
        slopes, units, scaled = self._scaled(floor)
        bounds = list(zip(lower / units, upper / units, strict=True))
        ends = np.array([lower, upper])
        for k, unit in enumerate(units):
            for end, sign in ((0, 1.0), (1, -1.0)):
                objective = np.zeros(len(units))
                objective[k] = sign
                found = linear_program(objective, A_ub=-slopes, b_ub=scaled, bounds=bounds)
                if found.status == 0:
                    ends[end, k] = found.x[k] * unit
        return ends[0], ends[1]

    def units(self) -> np.ndarray:
        """The length of each coordinate along which the steepest plane rises by the largest value."""
        height, steep = self._sizes()
        return height / steep

    def _sizes(self) -> tuple[float, np.ndarray]:
        steep = np.abs(np.array(self.slopes)).max(0)
        steep[steep == 0] = 1.0
        return float(np.abs(self.values).max()) or 1.0, steep

    def _scaled(self, floor: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slopes, units, and values above ``floor``, such that all are of size 1: the solver's tolerances are
        absolute."""
        height, steep = self._sizes()
        return np.array(self.slopes) / steep, height / steep, (np.array(self.values) - floor) / height
