"""Speaks in protobuf messages of its own, in both directions: thermometers report, and hear what it amounts to."""

from session_service import get_current_session

from .v1.climate_pb2 import Reading, Summary

__all__ = ["typed"]


async def typed() -> None:
    """Answer each event that carries a ``Reading`` with the ``Summary`` of its thermometer so far.

    Where a client's own process knows the messages, too, they arrive there as what they are; see
    ``protos/session_service/examples/v1``.
    """
    session = get_current_session()
    summaries: dict[str, Summary] = {}
    while True:
        reading = (await session.next_client_event())["data"]
        if isinstance(reading, Reading):
            summary = summaries.setdefault(reading.sensor, Summary(sensor=reading.sensor))
            add(summary, reading)
            session.send_task_command({"command": "summary", "spec": summary})
        else:
            session.send_task_command({"command": "refused", "spec": "this app understands Reading messages only"})
        await session.drain()


def add(summary: Summary, reading: Reading) -> None:
    """Take one more reading into account."""
    celsius = reading.celsius
    summary.lowest = min(summary.lowest, celsius) if summary.count else celsius
    summary.highest = max(summary.highest, celsius) if summary.count else celsius
    summary.mean = (summary.mean * summary.count + celsius) / (summary.count + 1)
    summary.count += 1
    if reading.HasField("at"):
        summary.last_at.CopyFrom(reading.at)
    else:
        summary.last_at.GetCurrentTime()
