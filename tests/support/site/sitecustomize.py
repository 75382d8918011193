"""Keeps a process on this machine: any attempt to reach another one raises, and is written down.

Python loads this module at start-up when its folder is on ``PYTHONPATH``, so it also covers the child processes of
tests. It works on audit events (PEP 578), which every socket call of the interpreter raises and nothing can unhook.
"""

import os
import sys
from typing import Any, cast

LOG = "TEST_NETWORK_LOG"
"""Environment variable: the file to which an attempt is added."""


class LeftTheMachine(OSError):
    """A test tried to reach something other than loopback."""


def is_local(host: str) -> bool:
    if host in {"", "None", "localhost", "localhost."}:
        return True
    address = as_address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def as_address(host: str) -> Any:
    """The host as an address if it is written as one; such a host resolves to itself without asking anybody."""
    import ipaddress  # here, since this module runs at the start of every child process

    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def guard(event: str, args: tuple[Any, ...]) -> None:
    if event in {"socket.connect", "socket.sendto"}:
        if not isinstance(args[1], tuple):  # a Unix socket's address
            return
        target = str(cast("tuple[Any, ...]", args[1])[0])
        if is_local(target):
            return
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        target = args[0].decode("ascii", "replace") if isinstance(args[0], bytes) else str(args[0])
        if is_local(target) or as_address(target) is not None:
            return
    else:
        return
    log = os.environ.get(LOG)
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{event} {target}\n")
    raise LeftTheMachine(f"{event}: {target} is not on this machine")


sys.addaudithook(guard)
