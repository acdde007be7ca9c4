"""Links for unmodified programs: network namespaces of the Linux kernel, joined by shaped links.

Three backends: ``netem`` (the kernel's own emulator under htb), ``tun`` (one process forwards packets through the link
model) and ``tbf`` (rates only). :mod:`netshape.kernel.probe` says which of them a machine has,
:class:`netshape.kernel.lab.KernelLab` uses them. Needs root, Linux and the extra ``[kernel]``.
"""
