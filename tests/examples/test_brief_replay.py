"""A finished brief is a test: recorded, run again without its servers, and different where the workflow is."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.errors import UsageError
from retinue.examples.brief.workflow import make_brief
from retinue.graphs.recording import Recording
from retinue.host import Host
from retinue.testing import ReplayDiffers, replay_async
from tests.examples.test_brief_forks import finished

pytestmark = pytest.mark.anyio


async def recorded(host: Host, path: Path) -> Recording:
    run, _ = await finished(host)
    recording, differences = await host.replay(await host.find(run))
    assert differences == []
    recording.write(path)
    return recording


async def test_a_recorded_brief_replays_to_the_same_events_and_output(host: Host, tmp_path: Path) -> None:
    recording = await recorded(host, tmp_path / "brief.json")
    again = await replay_async(tmp_path / "brief.json", workflow=make_brief())
    assert again == recording
    assert (again.status, again.pauses) == ("done", True)
    assert {"scout[0]@2", "scout[1]@2"} <= again.runs[again.run].events.keys()
    assert again.output["citations"]


async def test_a_changed_prompt_is_told_by_the_agents_name(host: Host, tmp_path: Path) -> None:
    await recorded(host, tmp_path / "brief.json")
    changed = make_brief()
    (writer,) = (agent for agent in changed.agents if agent.name == "writer")
    writer.prompt += "\nWrite in verse."
    vars(writer).pop("prompt_hash", None)
    with pytest.raises(ReplayDiffers, match="prompts: writer has changed"):
        await replay_async(tmp_path / "brief.json", workflow=changed)


async def test_a_changed_graph_is_told_by_its_edges(host: Host, tmp_path: Path) -> None:
    await recorded(host, tmp_path / "brief.json")
    changed = make_brief()

    async def polish(state: object) -> dict[str, object]:
        return {}

    changed.graph.add_node("polish", polish)
    changed.graph.add_edge("save", "polish")
    with pytest.raises(ReplayDiffers) as refused:
        await replay_async(tmp_path / "brief.json", workflow=changed)
    assert "edges: save -> polish is new" in refused.value.differences
    assert "nodes: polish is new" in refused.value.differences


async def test_a_changed_tool_of_a_server_is_told_by_its_name(host: Host, tmp_path: Path) -> None:
    recording = await recorded(host, tmp_path / "brief.json")
    recording.servers["knowledge"][0].input_schema["properties"]["extra"] = {"type": "string"}
    recording.write(tmp_path / "other.json")
    name = recording.servers["knowledge"][0].name
    with pytest.raises(ReplayDiffers, match=f"tools: scout.{name} has changed"):
        await replay_async(tmp_path / "other.json", workflow=make_brief())


async def test_a_file_that_is_no_recording_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": "other"}')
    with pytest.raises(UsageError, match="is no recording of this Retinue"):
        await replay_async(tmp_path / "x.json")
    with pytest.raises(UsageError, match="cannot be read"):
        await replay_async(tmp_path / "y.json")
