"""COPS: the best mask by one score under control of another, or of several.

Not named cops: importing ``fbconv.cops`` as a module would set the attribute ``cops`` of ``fbconv``, which is the
function.
"""

from __future__ import annotations

from .call import CopsResult, cops
from .mix import linear_mix

__all__ = ["CopsResult", "cops", "linear_mix"]
