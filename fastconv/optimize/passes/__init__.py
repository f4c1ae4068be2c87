"""The passes over a captured graph, in the order they run; what it computes stays the same.

After them a graph is canonical: every convolution of images is one node (conv.py) with what it
takes in. What follows (fuse_blocks, pool, linear, lower) chooses kernels.
"""

from fastconv.optimize.conv import canonicalize
from fastconv.optimize.passes.absorb_padding import absorb_padding
from fastconv.optimize.passes.drop_identities import drop_identities
from fastconv.optimize.passes.fold_batch_norm import fold_batch_norm
from fastconv.optimize.passes.fold_constants import fold_constants
from fastconv.optimize.passes.fuse_residual_and_activation import fuse_residual_and_activation
from fastconv.optimize.passes.lift_rows import lift_rows
from fastconv.optimize.passes.lift_sequences import lift_sequences
from fastconv.optimize.passes.merge_constants import merge_constants
from fastconv.optimize.passes.name_activations import name_activations

CANONICAL = (
    drop_identities,
    fold_constants,
    name_activations,
    lift_sequences,
    canonicalize,
    lift_rows,
    absorb_padding,
    fold_batch_norm,
    fuse_residual_and_activation,
    merge_constants,
)
