"""What a language model would say to the agents of the brief, for a server that speaks the Messages API."""

from __future__ import annotations

import json
from typing import Any

from retinue.examples.brief.functions import best_sentences
from retinue.examples.brief.shapes import Draft, Finding, Plan
from tests.support.messages_server import Received, Step, calls, says


def brief_model(received: Received) -> Step:
    if "You split a question" in received.system:
        return says(Plan(questions=[received.task]).model_dump_json())
    if "You write a brief" in received.system:
        return says(_draft(json.loads(received.task)).model_dump_json())
    if not received.results:
        return calls(("search", {"query": received.task, "limit": 8}))
    hits: list[dict[str, Any]] = json.loads(received.results[0])["hits"]
    return says(Finding(question=received.task, evidence=best_sentences(received.task, hits)).model_dump_json())


def _draft(task: dict[str, Any]) -> Draft:
    evidence = Finding.model_validate(task["findings"][0]).evidence[:1]
    return Draft(title="An answer", body="It is so [1].", citations=evidence)
