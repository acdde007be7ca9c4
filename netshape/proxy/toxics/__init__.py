"""Toxics: what can be done to a direction of a proxy's connections. One module each."""

from __future__ import annotations

from netshape.proxy.toxics.bandwidth import Bandwidth
from netshape.proxy.toxics.latency import Latency
from netshape.proxy.toxics.limit_data import LimitData
from netshape.proxy.toxics.noop import Noop
from netshape.proxy.toxics.reset_peer import ResetPeer
from netshape.proxy.toxics.slicer import Slicer
from netshape.proxy.toxics.slow_close import SlowClose
from netshape.proxy.toxics.timeout import Timeout
from netshape.proxy.toxics.toxic import Attributes

TOXICS: dict[str, type[Attributes]] = {
    kind.TYPE: kind for kind in (Bandwidth, Latency, LimitData, Noop, ResetPeer, Slicer, SlowClose, Timeout)
}
"""Types of toxics by the name that the API knows them by."""
