"""The caller in the form that the MCP SDK passes on to tools (mcp 2.3, ``mcp.server.auth``)."""

from __future__ import annotations

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from .principal import Principal
from .tokens import AccessGrant

PRINCIPAL = "io.retinue/principal"


def mcp_user(grant: AccessGrant, resource: str) -> AuthenticatedUser:
    """A user for ``scope["user"]``. It holds no token: a tool cannot pass on what it does not have.

    Sessions and request states of the SDK are bound to client, issuer and subject. It knows no tenants: where there is
    one, the subject here names it too.
    """
    principal = grant.principal
    return AuthenticatedUser(
        AccessToken(
            token="",
            client_id=grant.client_id,
            scopes=sorted(grant.scopes),
            expires_at=int(grant.expires_at),
            resource=resource,
            subject=principal.key if principal.tenant else principal.subject,
            claims={"iss": principal.issuer, PRINCIPAL: principal.to_json()},
        )
    )


def current_principal() -> Principal | None:
    """Who is calling, inside a tool of a guarded MCP server; None when the call did not come through a guard."""
    token = get_access_token()
    data = (token.claims or {}).get(PRINCIPAL) if token is not None else None
    return Principal.from_json(data) if data is not None else None
