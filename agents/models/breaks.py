"""What a failure of the transport means: nobody there, silence, or an answer that broke off."""

from __future__ import annotations

import ssl

import aiohttp
import httpx2

from retinue.errors import ModelError, Timeout, Unreachable

from .faults import Fault

BROKEN = (httpx2.HTTPError, httpx2.InvalidURL, aiohttp.ClientError, OSError, ValueError)
"""What the transport raises. It does not translate every error of aiohttp's, and some of those are ValueErrors."""


def break_of(error: BaseException | None, *, host: str, streaming: bool) -> Fault:
    """The fault that one of `BROKEN` stands for, or the end of a stream before its last event (no error)."""
    if isinstance(error, (httpx2.ConnectTimeout, httpx2.PoolTimeout)):
        return Fault(_unreachable(host, "no connection in time"), repeatable=True)
    if isinstance(error, (httpx2.TimeoutException, TimeoutError)):
        silent = Timeout(f"nothing came from the model service at {host} for as long as is waited for")
        return Fault(silent, repeatable=streaming)  # a plain request may be at work still: not paid for twice
    if (why := _untrusted(error)) is not None:
        hint = "Set SSL_CERT_FILE to the certificates of your organisation."
        return Fault(_unreachable(host, f"its certificate is not trusted ({why})", hint=hint))
    if isinstance(error, (httpx2.InvalidURL, httpx2.UnsupportedProtocol, ValueError)):
        return Fault(_unreachable(host, "the base URL is not one that can be called"))
    if isinstance(error, (httpx2.ConnectError, httpx2.ProxyError)):
        return Fault(_unreachable(host, "no connection"), repeatable=True)
    cut = ModelError(f"the connection to the model service at {host} broke before the answer was complete")
    return Fault(cut, repeatable=True)


def _unreachable(host: str, why: str, *, hint: str | None = None) -> Unreachable:
    return Unreachable(f"cannot reach the model service at {host}: {why}", hint=hint, host=host)


def _untrusted(error: BaseException | None) -> str | None:
    """Why a certificate was refused, if that is what happened: trying again does not help."""
    cause = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError) and (why := getattr(cause, "verify_message", None)):
            return str(why)
        cause = cause.__cause__ or cause.__context__
    return None
