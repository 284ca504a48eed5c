"""The rows of the table, a module each: ``async def measure(quick: bool) -> list[Result]``, run in its own process."""

# In the order of the table.
ROWS = (
    "round_trip",
    "round_trip_value",
    "round_trip_threads",
    "callback",
    "latency",
    "push",
    "push_threads",
    "flood",
    "flood_batched",
    "opens",
    "memory",
    "resume",
    "growth",
    "timers",
)
