"""The locks: who may call what over HTTP.

``issuer/`` hands out tokens, `guard` asks for them, ``client/`` fetches and proves them; `tokens` and `dpop` are what
the three agree on. Nothing here imports another room; mcp, Starlette and authlib are imported only where they are used.
"""
