"""One request and its second tries, for httpx2 and httpx alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, Literal, Protocol

from retinue.errors import NotAllowed, RetinueError, SignInNeeded

from .. import challenges
from ..urls import require_secure, under
from .core import OAuthClient, Token

MAX_STEP_UPS: Final = 2


class OutgoingRequest(Protocol):
    """What the requests of both libraries have in common. Their header mappings are typed alike, but apart."""

    @property
    def method(self) -> str: ...
    @property
    def url(self) -> object: ...
    @property
    def headers(self) -> Any: ...


class IncomingResponse(Protocol):
    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Any: ...


class ResourceAuth:
    """Access to one resource: which scopes are asked for, and how far that may grow.

    ``scopes`` are asked for from the start; with none, the server is first asked without a token and its challenge says
    which. ``step_up`` are the further scopes that may be asked for when an operation turns out to need them (``"any"``:
    whatever the issuer grants); once granted they stay. By default the token never grows, so what a model makes a
    client call cannot widen what the client may do.
    """

    def __init__(
        self,
        client: OAuthClient,
        resource: str,
        *,
        scopes: Iterable[str] = (),
        step_up: Collection[str] | Literal["any"] = (),
        bearer: bool = False,
    ) -> None:
        if isinstance(scopes, str):
            raise TypeError("scopes is a collection of scopes, not one string")
        self.client = client
        self.resource = require_secure(resource, "a resource")
        self.scopes = frozenset(scopes)
        self._step_up: frozenset[str] | None = None if step_up == "any" else frozenset(step_up)
        self.bearer = bearer

    def may_ask_for(self, scopes: frozenset[str]) -> bool:
        return self._step_up is None or scopes <= self._step_up

    def begin(self, url: str) -> Attempt:
        """Start on one request. Raises `NotAllowed` for a URL that is not the resource's: it would get the token."""
        if not under(url, self.resource):
            raise NotAllowed(f"a token for {self.resource} is not sent anywhere else")
        return Attempt(self, url)


class Attempt:
    """One request: signed, and signed again while the answer says how. Bodies of answers are never read."""

    def __init__(self, auth: ResourceAuth, url: str) -> None:
        self._auth = auth
        self._url = url
        self._token: Token | None = None
        self._refused: Token | None = None
        self._renonced = self._asked = False
        self._step_ups = 0

    async def sign(self, request: OutgoingRequest) -> None:
        """Put the credentials on the request, in place of any that it has. Raises what `OAuthClient.token` does."""
        auth = self._auth
        for name in ("authorization", "dpop"):
            request.headers.pop(name, None)
        if not auth.scopes:
            return
        self._token = await auth.client.token(auth.resource, auth.scopes, bearer=auth.bearer, instead_of=self._refused)
        request.headers.update(auth.client.headers(request.method, self._url, self._token))

    async def again(self, response: IncomingResponse) -> bool:
        """Whether to sign and send once more. Each reason counts once a request, a step-up twice."""
        self._auth.client.observe(self._url, response.headers)
        if response.status_code not in (401, 403):
            return False
        found = challenges.parse(response.headers.get_list("www-authenticate"))
        challenge = challenges.pick(found, "DPoP", "Bearer") or challenges.Challenge("DPoP")
        if response.status_code == 403:
            return challenge.error == "insufficient_scope" and await self._widen(challenge.scopes)
        if self._token is None:
            return not self._asked and await self._learn(challenge)
        error = next((each.error for each in found if each.error), "")
        if error == "use_dpop_nonce":
            first, self._renonced = not self._renonced, True
            return first
        if error not in ("", "invalid_token") or self._refused is not None:
            return False
        self._refused = self._token
        return True

    async def _learn(self, challenge: challenges.Challenge) -> bool:
        """Find out from the server whom it trusts and what to ask for (RFC 9728 §5)."""
        self._asked = True
        auth = self._auth
        about = await auth.client.find_resource(auth.resource, advertised=challenge.parameters.get("resource_metadata"))
        wanted = challenge.scopes or about.scopes_supported
        if not wanted:
            raise SignInNeeded(f"{auth.resource} does not say which scopes it needs", hint="Name them in its settings.")
        auth.scopes |= wanted
        return True

    async def _widen(self, needed: frozenset[str]) -> bool:
        """Ask for what the operation needs on top of what there is, if that is allowed here and granted there."""
        auth, self._step_ups = self._auth, self._step_ups + 1
        missing = needed - auth.scopes
        if not missing:  # somebody else has widened it meanwhile, or the server asks for what it has been given
            return self._token is not None and not needed <= self._token.scopes and self._step_ups <= MAX_STEP_UPS
        if self._step_ups > MAX_STEP_UPS or not auth.may_ask_for(missing):
            return False
        try:
            await auth.client.token(auth.resource, auth.scopes | needed, bearer=auth.bearer)
        except RetinueError:  # the server's refusal says it better, and does not end the caller's whole session
            return False
        auth.scopes |= needed
        return True
