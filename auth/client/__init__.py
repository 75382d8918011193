"""Calling guarded servers: `OAuthClient` gets tokens, `DPoPAuth` puts one with its proof on each httpx2 request.

    client = OAuthClient(Credentials(issuer, "local", load_or_create_client_key(path)))
    http = httpx2.AsyncClient(auth=DPoPAuth(client, url, scopes=["library:read"]))
    async with streamable_http_client(url, http_client=http) as streams: …

``HttpxDPoPAuth`` in `httpx_auth` is the same for httpx.
"""

from ..dpop import DPoPKey
from ..keys import load_or_create_client_key, public_jwks
from .core import OAuthClient, Token
from .credentials import Credentials
from .errors import refusal_in
from .httpx2_auth import DPoPAuth

__all__ = [
    "Credentials",
    "DPoPAuth",
    "DPoPKey",
    "OAuthClient",
    "Token",
    "load_or_create_client_key",
    "public_jwks",
    "refusal_in",
]
