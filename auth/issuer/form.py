"""The token endpoint's input, read strictly (RFC 6749 §3.2: no parameter twice, none in the URL)."""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from .errors import TokenError
from .grants import TokenRequest

MAX_BODY: Final = 64 * 1024
MAX_HEADERS: Final = 32 * 1024
MAX_PARAMETERS: Final = 32


async def read(request: Request) -> TokenRequest:
    """Raises `TokenError`."""
    headers = request.headers
    if sum(len(name) + len(value) + 4 for name, value in headers.raw) > MAX_HEADERS:
        raise TokenError("invalid_request", "the headers are too large", status=431)
    if "authorization" in headers:
        raise TokenError("invalid_client", "authenticate with private_key_jwt in the body alone")
    if request.url.query:
        raise TokenError("invalid_request", "parameters belong in the body")
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    if kind.strip() != "application/x-www-form-urlencoded" or (
        "charset" in parameters and parameters.partition("=")[2].strip().strip('"') != "utf-8"
    ):
        raise TokenError("invalid_request", "the body is not application/x-www-form-urlencoded in UTF-8")
    if headers.get("content-encoding", "identity") != "identity":
        raise TokenError("invalid_request", "an encoded body is not accepted")
    form, resources = _parse(await _body(request))
    return TokenRequest(form, resources, headers.getlist("dpop"), time.time())


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise TokenError("invalid_request", "the body is too large", status=413)
    except ClientDisconnect:
        raise TokenError("invalid_request", "the body did not arrive") from None
    return bytes(body)


def _parse(body: bytes) -> tuple[dict[str, str], list[str]]:
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise TokenError("invalid_request", "the body is not a form") from None
    form: dict[str, str] = {}
    resources: list[str] = []
    for name, value in pairs:
        if name == "resource":  # RFC 8707 lets it repeat; how many are good is for the grant to say
            resources.append(value)
        elif name in form:
            raise TokenError("invalid_request", "a parameter appears more than once")
        elif value:  # RFC 6749 §3.2: without a value is as if it were left out
            form[name] = value
    return form, resources
