"""Says everything back: the smallest coroutine app."""

from session_service import get_current_session

__all__ = ["echo"]


async def echo() -> None:
    """Answer each event with a command that holds the same payload, until the client has no more to say."""
    session = get_current_session()
    while True:
        event = await session.next_client_event()
        session.send_task_command({"command": "echo", "spec": event["data"]})
        await session.drain()
