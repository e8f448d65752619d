"""What torch needs to know of ``torch.ops.fbconv.*`` beside the kernels, one file each: fakes, autograd, autocast.

Importing this package loads the extension, which defines the operators.
"""

from __future__ import annotations

import torch

from .. import _C

_C.capability()  # an impossible FBCONV_CPU_CAPABILITY is an error now, not in the middle of a run

from . import autocast, autograd, fakes, frozen  # noqa: E402, F401  (they register what they hold)

ops = torch.ops.fbconv
