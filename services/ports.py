"""Ports for processes that are yet to be started.

A port that is merely found free may be given to somebody else before its process listens there. So the process that
asked for it keeps a socket bound to it, for as long as it lives: that keeps others away who look for a port in the same
manner, and servers, which all reuse addresses, listen beside it. It knows nothing of who will listen.
"""

from __future__ import annotations

import random
import socket
import sys

UNGIVEN_PORTS = range(20_000, 32_000)
"""What Linux gives to nobody who asks for any port: free while a server starts, and while it is to be started again."""
_TRIES = 100


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens, and which this function gives to nobody else while this process lives.

    Raises OSError when the host is none of this machine's.
    """
    for port in random.sample(UNGIVEN_PORTS, _TRIES):
        if _claim(host, port):
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _claim(host: str, port: int) -> bool:
    claim = socket.socket()
    try:
        claim.bind((host, port))
    except OSError:
        claim.close()
        return False
    if sys.platform == "linux":  # elsewhere nobody could listen beside it
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.detach()
    claim.close()
    return True
