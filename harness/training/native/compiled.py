"""The operations of a sparse step compiled for the CPU by numba, for float32 tensors.

Importing this module imports numba (the extra `fast`): `sparse_ops` does where it is installed, and does the same in
plain torch where it is not. What is gained: one pass over the memory in place of several, and one waking of the
threads in place of one for every operation.

Every result is that of one row, summed in a fixed order: it depends neither on the number of threads nor on what else
is in the batch. Dot products are summed in vectors, so their last bit may differ from one kind of CPU to another, as
torch's own may.

Compiled code is kept in `__pycache__` beside these files (where that cannot be written, in numba's folder in the user's
cache), for each kind of CPU; the first call on a machine compiles, a few seconds for all.
"""

from .pieces import supports
from .rows import adam, gradient_squares
from .segments import decode_gradients, fired, gather, group, segment_dots
from .selection import pairs_above, top_k

__all__ = [
    "adam",
    "decode_gradients",
    "fired",
    "gather",
    "gradient_squares",
    "group",
    "pairs_above",
    "segment_dots",
    "supports",
    "top_k",
]
