"""Who is who: two principals are one only if issuer, tenant and subject all agree."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.auth.middleware.bearer_auth import authorization_context

from retinue.auth.mcp_user import mcp_user
from retinue.auth.principal import Principal
from retinue.auth.tokens import AccessGrant

PARTS = ["a", "b", "a|b", "|", "%7C", "", "a|", "|a"]


def test_no_two_principals_have_one_key() -> None:
    parts = list(itertools.product(PARTS, repeat=3))
    keys = {Principal(issuer=i, tenant=t, subject=s).key for i, t, s in parts}
    assert len(keys) == len(parts)


@given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
def test_keys_agree_only_where_all_parts_do(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    keys = [Principal(issuer=i, tenant=t, subject=s).key for i, t, s in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_an_ordinary_key_is_the_parts_with_bars_between() -> None:
    assert Principal(issuer="https://id", tenant="acme", subject="ann").key == "https://id|acme|ann"
    assert Principal(issuer="urn:retinue:local", subject="user:1000").key == "urn:retinue:local||user:1000"


@pytest.mark.parametrize(
    ("actors", "scopes", "may"),
    [("", "runs:approve", True), ("agent", "runs:approve", False), ("", "runs:read", False), ("", "", False)],
)
def test_only_who_acts_for_himself_and_holds_the_scope_may_approve(actors: str, scopes: str, may: bool) -> None:
    principal = Principal(issuer="i", subject="s", actors=tuple(actors.split()), scopes=frozenset(scopes.split()))
    assert principal.may_approve is may
    assert Principal.from_json(principal.to_json()).may_approve is may


def user_of(tenant: str) -> object:
    principal = Principal(issuer="https://id", tenant=tenant, subject="ann")
    grant = AccessGrant(principal, "app", frozenset(), 0, 600, None, "j")
    return authorization_context(mcp_user(grant, "https://server/mcp"))


def test_an_mcp_session_of_one_tenant_is_not_that_of_the_same_subject_in_another() -> None:
    assert user_of("acme") == user_of("acme")
    assert len({str(user_of(tenant)) for tenant in ("", "acme", "other")}) == 3
