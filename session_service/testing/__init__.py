"""For tests of apps: run one in this process against a script of events, and read its commands.

::

    from session_service import CloseReason
    from session_service.testing import Event, run

    def test_it_greets() -> None:
        transcript = run(greet, [Event("answer", "Ada"), Event("answer", 36)])
        assert [command["command"] for command in transcript.commands] == ["ask", "ask", "greeting"]
        assert transcript.reason is CloseReason.COMPLETED

There is no network and no plugin, and nobody waits: an app that sleeps for an hour has slept at once.
"""

from .script import Close, Event, Pause, Script, ScriptError, Step, Transcript, run

__all__ = ["Close", "Event", "Pause", "Script", "ScriptError", "Step", "Transcript", "run"]
