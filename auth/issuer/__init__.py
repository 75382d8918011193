"""The embedded authorization server: client credentials by ``private_key_jwt``, one resource a token, bound by DPoP.

It serves a laptop or a small group of machines; an identity provider can stand in its place, because resource servers
know nothing of it but its metadata and its key set.
"""

from .clients import Client, ClientRegistry, FileClients, MemoryClients
from .grants import Resource, TokenEvent
from .server import Issuer

__all__ = ["Client", "ClientRegistry", "FileClients", "Issuer", "MemoryClients", "Resource", "TokenEvent"]
