"""What the kernel backends can complain about."""

from __future__ import annotations

from netshape.errors import NetworkError


class KernelError(NetworkError):
    """Something that the kernel, or its configuration, does not allow; what, where, which rule, what to do."""
