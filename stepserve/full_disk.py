"""How a disk says that it is full."""

import errno
from typing import Final

_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_disk_full(error: OSError) -> bool:
    """No space, no quota left, or no larger file for this process."""
    return error.errno in _ERRNOS
