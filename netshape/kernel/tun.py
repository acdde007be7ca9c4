"""TUN devices: network cards whose other end is a file descriptor of a process, one IP packet a read.

With offloads on, the kernel hands over TCP data in packets of up to 64 KiB behind a virtio header that says how to cut
them (``struct virtio_net_hdr``, include/uapi/linux/virtio_net.h), and takes such packets back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from netshape.kernel.errors import KernelError
from netshape.kernel.syscalls import inside

DEVICE = Path("/dev/net/tun")
HEADER = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; little-endian after TUNSETVNETLE."""
READ_BYTES = HEADER.size + 65_536

NEEDS_CHECKSUM = 1
"""Header flag: the checksum at csum_start + csum_offset covers only the pseudo header so far."""
GSO_NONE, GSO_TCP4 = 0, 1
GSO_ECN = 0x80
"""Bit of gso_type: the segments carry congestion marks; the first one alone may have CWR."""

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETLE = 0x400454DC
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_OFFLOADS = 0x01 | 0x02 | 0x08
"""TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO_ECN."""
_CHECKSUM_ONLY = 0x01


def open_tun(namespace: Path, name: str) -> int:
    """Make a TUN device inside a namespace; for processes with a single thread only.

    Args:
        namespace: File of the network namespace.
        name: Name of the device there, at most 15 characters.

    Returns:
        A descriptor that does not block. The device goes away when it is closed.

    Raises:
        KernelError: No TUN in this kernel, or not permitted.
    """
    try:
        with inside(namespace):
            descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
            try:
                fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode("ascii"), flags))
                fcntl.ioctl(descriptor, _TUNSETVNETLE, struct.pack("i", 1))
                set_offload(descriptor, True)
            except BaseException:
                os.close(descriptor)
                raise
    except OSError as error:
        raise KernelError(f"{DEVICE} in {namespace}: {_advice(error)}") from error
    return descriptor


def set_offload(descriptor: int, on: bool) -> None:
    """Whether the kernel may hand over TCP data in large packets; otherwise it cuts them before."""
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _OFFLOADS if on else _CHECKSUM_ONLY)


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "this machine has no TUN devices; load the module `tun`, or give the container --device /dev/net/tun"
    if error.errno in (errno.EPERM, errno.EACCES):
        return "not permitted; run as root with CAP_NET_ADMIN, and allow the device in the container"
    return f"the device cannot be made: {error.strerror}"
