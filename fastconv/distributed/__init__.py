"""Our layers on several processes.

DistributedDataParallel and FSDP take swapped networks as they take others. Importing this package
tells DTensor how our ops may be split; :class:`HalfOfAlexNet` puts AlexNet on two as its
paper does. ``torchrun --nproc-per-node 2 -m fastconv.distributed.train --help`` trains in each way.
"""

from fastconv.distributed import sharding
from fastconv.distributed.two_groups import HalfOfAlexNet

sharding.register()

__all__ = ["HalfOfAlexNet"]
