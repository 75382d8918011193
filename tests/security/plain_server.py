"""An MCP server on stdio in plain Python: tells its environment, and writes what it is told to stderr."""

import json
import os
import sys
from typing import Any

TOOLS = [{"name": "look", "description": "Looks around.", "inputSchema": {"type": "object"}}]

result: Any
for line in sys.stdin:
    request = json.loads(line)
    match request.get("method"):
        case "initialize":
            result = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "plain", "version": "0"},
            }
        case "tools/list":
            print(f"stderr of {os.environ.get('SECRET', 'nobody')}", file=sys.stderr, flush=True)
            result = {"tools": TOOLS}
        case "tools/call":
            found = {"env": dict(os.environ), "cwd": os.getcwd(), "files": sorted(os.listdir("/proc/self/fd"))}
            result = {"content": [{"type": "text", "text": json.dumps(found)}]}
        case _:
            result = None
    if "id" in request:
        body: dict[str, Any] = {"result": result} if result is not None else {"error": {"code": -32601, "message": "no"}}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **body}), flush=True)
