"""The example `typed`: protobuf messages of its own, both ways."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from session_client import SessionClient

from session_service.examples.typed import typed
from session_service.examples.v1.climate_pb2 import Reading, Summary
from session_service.testing import Event, run

from ..cli.program import Served

NOON, LATER = Timestamp(seconds=1_800_000_000), Timestamp(seconds=1_800_000_060)

READINGS = [
    Reading(sensor="roof", celsius=-2.5, at=NOON),
    Reading(sensor="cellar", celsius=11.0, at=NOON),
    Reading(sensor="roof", celsius=3.5, at=LATER),
]
SUMMARIES = [
    Summary(sensor="roof", count=1, lowest=-2.5, highest=-2.5, mean=-2.5, last_at=NOON),
    Summary(sensor="cellar", count=1, lowest=11.0, highest=11.0, mean=11.0, last_at=NOON),
    Summary(sensor="roof", count=2, lowest=-2.5, highest=3.5, mean=0.5, last_at=LATER),
]


def test_each_reading_is_answered_with_what_it_amounts_to() -> None:
    transcript = run(typed, [Event("reading", reading) for reading in READINGS])
    assert [command["spec"] for command in transcript.commands] == SUMMARIES


def test_a_reading_without_a_time_is_of_now() -> None:
    (command,) = run(typed, [Event("reading", Reading(sensor="roof"))]).commands
    assert command["spec"].last_at.seconds > NOON.seconds - 3 * 365 * 24 * 3600


def test_anything_else_is_refused() -> None:
    transcript = run(typed, [Event("reading", {"sensor": "roof"}), Event("reading", Duration(seconds=1))])
    assert [command["command"] for command in transcript.commands] == ["refused", "refused"]


async def test_a_client_that_knows_the_messages_gets_them_as_they_are(examples: Served) -> None:
    async with SessionClient(examples.address) as client, client.open("typed") as session:
        for reading, summary in zip(READINGS, SUMMARIES, strict=True):
            await session.send_event("reading", reading)
            assert (await anext(session)).spec == summary
