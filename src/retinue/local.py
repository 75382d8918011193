"""The person at this machine's terminal. The operating system vouches for them."""

from __future__ import annotations

import getpass
import os

from retinue.auth.principal import Principal

LOCAL_ISSUER = "urn:retinue:local"


def local_principal() -> Principal:
    """A person without an actor chain who may approve: the command line, not a model, acts for them."""
    user = f"{os.getuid()}" if hasattr(os, "getuid") else getpass.getuser()
    return Principal(issuer=LOCAL_ISSUER, subject=f"user:{user}", scopes=frozenset({"runs:approve"}))
