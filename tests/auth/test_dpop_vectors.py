"""Proofs as the RFC prints them and as other libraries make them."""

from __future__ import annotations

import time

import jwt
import pytest

from retinue.auth import dpop
from retinue.auth.dpop import DPoPKey
from retinue.auth.refusals import InvalidProof
from tests.auth.world import World

pytestmark = pytest.mark.anyio

JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"  # RFC 9449 section 6.1
TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"  # section 7.1
TOKEN_REQUEST = (  # section 5
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJo"
    "RjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
    "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0"
    "IjoxNTYyMjYyNjE2fQ."
    "2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
RESOURCE_REQUEST = (  # section 7.1
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJo"
    "RjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
    "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRy"
    "ZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9."
    "2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)


def test_the_proofs_of_the_rfc_hold_for_their_requests() -> None:
    proof = dpop.check(TOKEN_REQUEST, method="POST", url="https://server.example.com/token", now=1562262617)
    assert (proof.jkt, proof.jti) == (JKT, "-BwC3ESc6acc2lTc")
    proof = dpop.check(
        RESOURCE_REQUEST,
        method="GET",
        url="https://resource.example.org/protectedresource",
        access_token=TOKEN,
        jkt=JKT,
        now=1562262619,
    )
    assert proof.jti == "e1j3V_bKic8-LAEB"
    with pytest.raises(InvalidProof, match="iat"):
        dpop.check(TOKEN_REQUEST, method="POST", url="https://server.example.com/token")


@pytest.mark.parametrize(("algorithm", "name"), [("ES256", "ES256"), ("Ed25519", "EdDSA")])
async def test_a_proof_of_another_library_is_accepted(world: World, algorithm: str, name: str) -> None:
    world.key = DPoPKey.generate("ES256" if algorithm == "ES256" else "Ed25519")
    token = world.token()
    claims = jwt.decode(world.proof(token), options={"verify_signature": False})
    proof = jwt.encode(
        {**claims, "jti": "other", "iat": int(time.time())},
        world.key.key.private_key,  # pyright: ignore[reportArgumentType]  # a cryptography key, of whichever kind
        algorithm=name,
        headers={"typ": "dpop+jwt", "jwk": world.key.public_jwk},
    )
    assert (await world.send(token=token, proof=proof)).status_code == 200


async def test_another_library_reads_our_tokens_and_proofs(world: World) -> None:
    token = world.token()
    key = jwt.PyJWK(world.keys.jwks()["keys"][0])
    claims = jwt.decode(token, key, algorithms=["ES256"], audience=world.resource, issuer=world.issuer.url)
    assert claims["cnf"] == {"jkt": world.key.jkt}
    proof = world.proof(token)
    found = jwt.decode(proof, jwt.PyJWK(jwt.get_unverified_header(proof)["jwk"]), algorithms=["ES256"])
    assert (found["htm"], found["htu"]) == ("POST", world.resource)
