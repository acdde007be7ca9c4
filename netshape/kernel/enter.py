"""Runs a program inside a network namespace. A script on its own, run by path, so that it starts quickly.

Arguments: namespace's file, hosts file or an empty text, program, its arguments.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 0x80000
HOSTS = "/etc/hosts"
CANNOT_ENTER, CANNOT_RUN, NOT_FOUND = 125, 126, 127


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter(namespace: str, hosts: str) -> None:
    """Move into ``namespace``, and see ``hosts`` as /etc/hosts; both end with this process and its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY)
    _checked(libc.setns(descriptor, CLONE_NEWNET))
    os.close(descriptor)
    if hosts and os.path.exists(HOSTS):
        _checked(libc.unshare(CLONE_NEWNS))
        _checked(libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None))
        _checked(libc.mount(os.fsencode(hosts), HOSTS.encode(), None, MS_BIND, None))


def main() -> int:
    """Enter and become the program; only failures return."""
    namespace, hosts, *argv = sys.argv[1:]
    try:
        enter(namespace, hosts)
    except OSError as error:
        print(f"error: {namespace}: cannot be entered: {error.strerror}; run as root", file=sys.stderr)
        return CANNOT_ENTER
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        print(f"error: {argv[0]}: there is no such program", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"error: {argv[0]}: cannot be run: {error.strerror}", file=sys.stderr)
        return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())
