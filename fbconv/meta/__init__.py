"""Learning of scores: from upfront scores of weights, what iterative multi-shot SynFlow would say of them.

Source: "Hitting the Jackpot" (Lutz, Manai), sections 3.2 and 5.2.
"""

from .data_set import Examples, examples
from .fitting import REGRESSORS, Quality, fit, quality

__all__ = ["REGRESSORS", "Examples", "Quality", "examples", "fit", "quality"]
