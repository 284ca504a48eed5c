"""A room in which several sessions of one server talk to each other."""

from session_service import AbstractSession, CommandBufferFull, SessionClosedException, get_current_session

__all__ = ["chat"]

Room = dict[AbstractSession, str]  # who is there, and by what name

# Coroutine sessions share their server's event loop, so between two awaits a room is theirs alone. Threads would need a
# lock; and a thread that speaks would wait for the slowest listener, since sending blocks there.
rooms: dict[str, Room] = {}


async def chat() -> None:
    """Enter ``params["room"]`` as ``params["name"]``; each ``say`` event is ``said`` to all who are there."""
    session = get_current_session()
    name = str(session.params.get("name", "somebody"))
    key = str(session.params.get("room", "lobby"))
    room = rooms.setdefault(key, {})
    room[session] = name

    @session.defer_call
    def leave() -> None:  # however the session ends: closed, failed, or its client never came back
        del room[session]
        if not room:
            del rooms[key]
        tell(room, "left", name)

    tell(room, "entered", name)
    while True:
        event = await session.next_client_event()
        if event["event"] == "say" and isinstance(event["data"], str):
            tell(room, "said", name, event["data"])
        await session.drain()


def tell(room: Room, command: str, name: str, text: str | None = None) -> None:
    """Tell everybody in the room, who speaks as well."""
    spec = {"name": name, "text": text, "here": sorted(room.values())}
    for listener in list(room):
        try:
            listener.send_task_command({"command": command, "spec": spec})
        except SessionClosedException:
            pass  # about to leave
        except CommandBufferFull:
            listener.close(message="you have not been listening")
