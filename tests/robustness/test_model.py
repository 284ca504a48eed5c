"""A whole session, without IO: two delivery sides, both directions at once, and a network that does what networks do.

`Client` and `Server` use `delivery` as session_client/conversation.py and manager.py do, with the session's real
command buffer and mailroom; `Session` is the network, both applications and the checker of guarantees. A stream is cut,
and the tail of what was written on it is lost; a stream is given up while it still works, and what is on it arrives
late; nobody notices for a while; an `open` or `resume` of an old stream overtakes the newer one; applications stall.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from session_service.delivery import Inbox, Outbox
from session_service.errors import CommandBufferFull, ResumeImpossible
from session_service.session.commands import CommandBuffer
from session_service.session.mailbox import Mail, Mailbox, Mailroom
from session_service.window import Window

from .history import (
    Ack,
    Acked,
    Attach,
    Checker,
    Close,
    Closed,
    Deliver,
    Detach,
    Forgotten,
    Held,
    Record,
    Refused,
    Send,
    Stop,
    TakeOver,
)

MAX_SIZE = 40
LEAST = Window(3, 60)  # what a client may send before it knows its window; no server grants less (D5)
EVENT_WINDOWS = st.builds(Window, messages=st.integers(LEAST.messages, 6), size=st.integers(LEAST.size, 120))
COMMAND_WINDOWS = st.builds(Window, messages=st.integers(1, 6), size=st.integers(1, 120))


@dataclass(frozen=True, slots=True)
class Turn:
    """What a side does in one step."""

    sends: list[int]  # sizes
    takes: int
    writes: int  # messages
    batch: int  # the most bytes in each
    ack: bool


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """How a client attaches, if it has to."""

    command_window: Window  # it asks for
    event_window: Window  # it is granted
    eager: bool


@dataclass(frozen=True, slots=True)
class Step:
    """Some time."""

    client: Turn
    up: int  # messages that arrive
    server: Turn
    down: int
    twice: bool
    attach: AttachOptions


PACES = st.sampled_from([4, 1, 0])  # what an application takes in a turn at most: one may stall until the end
TURNS = st.builds(
    Turn,
    sends=st.lists(st.integers(1, MAX_SIZE), max_size=4),
    takes=st.integers(0, 4),
    writes=st.integers(0, 3),
    batch=st.integers(1, 3 * MAX_SIZE),
    ack=st.booleans(),
)
STEPS = st.builds(
    Step,
    client=TURNS,
    up=st.integers(0, 4),
    server=TURNS,
    down=st.integers(0, 4),
    twice=st.booleans(),
    attach=st.builds(AttachOptions, COMMAND_WINDOWS, EVENT_WINDOWS, st.booleans()),
)


class Element(NamedTuple):
    """An event or a command; what it says is how many its application sent before it."""

    number: int
    size: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    attach: Literal["", "open", "resume"] = ""
    received: int = 0
    window: Window = LEAST
    ack: int = 0
    first: int = 0
    events: list[Element] = field(default_factory=list)
    close: Close | None = None


@dataclass(frozen=True, slots=True)
class Response:
    answer: Literal["", "opened", "resumed"] = ""
    received: int = 0
    event_window: Window = LEAST
    command_window: Window = LEAST
    ack: int = 0
    first: int = 0
    commands: list[Element] = field(default_factory=list)
    end: str = ""  # the call is over, for this reason


class Stream:
    """One call of `Attach`: what was written on it and has not arrived."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.up: deque[Request] = deque()
        self.down: deque[Response] = deque()
        self.begun = False  # the server has read its first request
        self.close_seen = False  # and its `close`: what comes behind is ignored (F6)
        self.cut = False  # what is written now gets lost

    def write_up(self, request: Request) -> None:
        if not self.cut:
            self.up.append(request)

    def write_down(self, response: Response) -> None:
        if not self.cut:
            self.down.append(response)


class Sender:
    """What the model knows of a side's outbox without asking it."""

    def __init__(self, window: Window) -> None:
        self.outbox: Outbox[Element] = Outbox(window)
        self.sizes: list[int] = []
        self.acked = 0

    def size_of(self, first: int, last: int) -> int:
        return sum(self.sizes[first - 1 : last])

    def take(self, size: int) -> tuple[int, list[Element]]:
        """Take a batch, and see that it is within the window, by the words of D5; `closed` needs none (D6)."""
        first, batch = self.outbox.take(size)
        window = self.outbox.window
        assert [element.number for element in batch] == list(range(first, first + len(batch)))
        assert len(batch) <= 1 or sum(element.size for element in batch) <= size
        for number, _, closed in batch:
            assert closed or number <= self.acked + window.messages
            assert closed or number == self.acked + 1 or self.size_of(self.acked + 1, number) <= window.size
        assert batch or not self.outbox.final or self.outbox.sent != self.outbox.last - 1
        return first, batch

    def ack(self, sequence: int) -> bool:
        advanced = self.outbox.ack(sequence)
        assert advanced is (sequence > self.acked)
        self.acked = max(self.acked, sequence)
        assert self.outbox.acked == self.acked
        return advanced


class Client(Sender):
    def __init__(self, record: Callable[[Record], None], window: Window) -> None:
        super().__init__(LEAST)
        self.record = record
        self.inbox: Inbox[Element] = Inbox(window)
        self.stream: Stream | None = None
        self.opened = self.attached = False
        self.eager = False  # has begun the stream with events
        self.holding = False  # the application works on the head of the inbox
        self.ready: deque[Element] = deque()  # acknowledged before it was asked for, since the client is closing
        self.delivered = 0
        self.closing: Close | None = None
        self.close_written = False
        self.closed = False  # the application has learned that it is over
        self.closed_at = 0  # the sequence of `closed`, once it is here
        self.done = False  # and has said that it is

    # --- streams ---

    def attach(self, stream: Stream, window: Window, eager: bool) -> None:
        """Begin a stream; an eager client does not wait for the answer to send what it holds (A4, D5)."""
        self.stream = stream
        self.attached = self.close_written = False
        self.inbox.restart_acks(self.inbox.expected - 1, told=0)
        self.eager = eager
        first, events = 0, list[Element]()
        if eager:
            granted, self.outbox.window = self.outbox.window, LEAST
            self.outbox.resume(self.outbox.acked)
            first, events = self.take(LEAST.size)
            self.outbox.window = granted
        if self.opened:
            received = self.inbox.expected - 1
            stream.write_up(Request("resume", received, window, first=first, events=events))
        else:
            stream.write_up(Request("open", window=window, first=first, events=events))

    def detach(self) -> None:
        if self.stream is not None and self.attached:
            self.record(Detach("client", self.stream.number))
        self.stream = None
        self.attached = False

    def read(self, stream: Stream, response: Response) -> None:
        if stream is not self.stream:
            return  # given up
        if response.end:
            if response.end not in ("TAKEN_OVER", "OK"):
                self.record(Refused(stream.number, response.end))
            self.detach()
            return
        if not self.attached:
            self.on_answer(stream, response)
        if response.ack:
            self.ack(response.ack)
            self.record(Acked("client", self.acked, stream.number))
        commands = response.commands
        if commands:
            for command in commands[self.inbox.skip(response.first, len(commands)) :]:
                self.inbox.put(command, command.size, exempt=command.closed)
                self.closed_at = command.number if command.closed else 0
        if self.closing:
            self.take_all()

    def on_answer(self, stream: Stream, response: Response) -> None:
        received = response.received if response.answer == "resumed" else None
        assert response.answer == ("resumed" if self.opened else "opened")
        self.opened = self.attached = True
        if not self.eager or response.received > self.outbox.sent:
            self.outbox.resume(response.received)
        self.outbox.window, self.inbox.window = response.event_window, response.command_window
        self.record(Attach("client", stream.number, received, response.event_window, response.command_window))
        if received is not None:
            self.ack(received)
            self.record(Acked("client", self.acked, stream.number))

    def write(self, size: int, ack: bool) -> None:
        assert self.stream is not None
        first, events = self.take(size)
        told = 0
        if self.inbox.ack_pending and (ack or events or self.inbox.ack_due):
            told = self.inbox.ack()
            self.record(Ack("client", told))
            self.done = 0 < self.closed_at <= told
        close = None
        if self.closing and not self.close_written and (self.closing.now or not self.outbox.waiting):
            close, self.close_written = self.closing, True
        if events or told or close:
            self.stream.write_up(Request(ack=told, first=first, events=events, close=close))

    # --- the application ---

    @property
    def may_send(self) -> bool:
        return not self.closing and not self.closed_at and min(self.outbox.room()) >= 1

    def send(self, size: int) -> None:
        number = len(self.sizes) + 1
        self.record(Send("client", number, number, size))
        self.sizes.append(size)
        assert self.outbox.append(Element(number, size), size) == number

    def take_next(self) -> bool:
        """Ask for the next command, which acknowledges the one before (D4); return False when there is none yet."""
        self.release()
        if self.ready:
            element = self.ready.popleft()
        elif (head := self.inbox.head) is not None:
            element = head[0]
            self.holding = True
        else:
            return False
        self.delivered += 1
        if element.closed:
            self.closed = True
            self.record(Closed("client", self.delivered, element.size))
            self.release()
        else:
            self.record(Deliver("client", self.delivered, element.number))
        return True

    def release(self) -> None:
        if self.holding:
            self.holding = False
            self.take_over()

    def take_over(self) -> None:
        self.record(TakeOver("client", self.inbox.taken + 1))
        self.inbox.take()

    def take_all(self) -> None:
        self.release()
        while (head := self.inbox.head) is not None:
            self.ready.append(head[0])
            self.take_over()

    def close(self, now: bool) -> None:
        self.closing = Close(now)
        self.close_written = False
        self.record(self.closing)
        self.take_all()


class Server(Sender):
    def __init__(self, record: Callable[[Record], None], events: Window, commands: Window) -> None:
        super().__init__(commands)
        self.record = record
        self.inbox: Inbox[tuple[Element, int]] = Inbox(events)  # with the stream that brought it
        self.buffer = CommandBuffer(commands, lambda: None)
        self.mailroom = Mailroom(events, self.on_room)
        self.mailbox = Mailbox()
        self.room = False
        self.stream: Stream | None = None
        self.answer: Response | None = None
        self.delivered = 0
        self.end_requested = False
        self.events_ended = self.ended = self.forgotten = False

    # --- streams ---

    def read(self, stream: Stream, request: Request, event_window: Window) -> None:
        if not stream.begun:
            stream.begun = True
            self.attach(stream, request, event_window)
        if stream is not self.stream:
            return  # fenced: nothing of it has an effect (A3)
        if request.ack and self.ack(request.ack):
            self.record(Acked("server", self.acked, stream.number))
            if self.outbox.final and self.outbox.empty:
                self.forget(stream)
                return
        if request.events and not stream.close_seen:
            for event in request.events[self.inbox.skip(request.first, len(request.events)) :]:
                self.inbox.put((event, stream.number), event.size)
            self.take_over()
        if request.close:
            stream.close_seen = True
            self.on_close(request.close.now)

    def attach(self, stream: Stream, request: Request, event_window: Window) -> None:
        """Let it in, whole or not at all; a repeated open is a resume from the start (A5, A6)."""
        try:
            self.outbox.check_resume(request.received)
        except ResumeImpossible:
            stream.write_down(Response(end="RESUME_IMPOSSIBLE"))
            return
        if self.forgotten:
            stream.write_down(Response(end="SESSION_NOT_FOUND"))
            return
        old, self.stream = self.stream, stream
        if old is not None:
            old.write_down(Response(end="TAKEN_OVER"))
        self.outbox.window, self.inbox.window = request.window, event_window
        self.outbox.resume(request.received)
        self.inbox.drop_waiting()
        heard = self.inbox.taken if request.attach == "resume" else 0
        self.inbox.restart_acks(heard, told=heard)
        self.end_requested = False
        self.record(Attach("server", stream.number, request.received, event_window, request.window))
        if request.attach == "resume":
            self.record(Ack("server", self.inbox.taken))
            self.answer = Response("resumed", self.inbox.taken, event_window, request.window)
        else:
            self.answer = Response("opened", 0, event_window, request.window)

    def lose(self, stream: Stream) -> None:
        """See the end of a stream, be it the current one or an old one."""
        stream.begun = True
        stream.up.clear()
        if stream is self.stream:
            self.stream = None
            self.inbox.drop_waiting()
            self.end_requested = False
            self.record(Detach("server", stream.number))

    def forget(self, stream: Stream) -> None:
        self.forgotten = True
        self.record(Forgotten())
        stream.write_down(Response(end="OK"))
        self.lose(stream)

    def write(self, size: int, ack: bool) -> bool:
        """Write one message; return False when nothing is due."""
        assert self.stream is not None
        if self.answer is not None:
            self.stream.write_down(self.answer)
            self.answer = None
            return True
        self.feed()
        first, commands = self.take(size)
        told = 0
        if self.inbox.ack_pending and (ack or commands or self.inbox.ack_due):
            told = self.inbox.ack()
            self.record(Ack("server", told))
        if commands or told:
            self.stream.write_down(Response(ack=told, first=first, commands=commands))
        return bool(commands or told)

    def feed(self) -> None:
        if self.outbox.final:
            return
        messages, size = self.outbox.room()
        if messages > 0 and size > 0:
            command: Element
            for command in self.buffer.take(messages, size):
                assert self.outbox.append(command, command.size) == command.number
        if self.ended and not self.buffer.count:
            closed = Element(self.outbox.last + 1, 10, closed=True)
            self.record(Closed("server", closed.number, closed.size))
            self.sizes.append(closed.size)
            self.outbox.append_final(closed, closed.size)

    def take_over(self) -> None:
        while (head := self.inbox.head) is not None:
            (event, stream), size = head
            mail = Mail({"event": "", "task_id": "", "data": event.number}, size)
            if not self.ended and not self.mailroom.put(self.mailbox, mail):
                return
            self.record(TakeOver("server", self.inbox.taken + 1, stream))
            self.inbox.take()
        if self.end_requested:
            self.events_ended = True

    def on_close(self, now: bool) -> None:
        if now:
            self.inbox.drop_waiting()
            self.ended = True
        else:
            self.end_requested = True
            self.take_over()

    def on_room(self) -> None:
        self.room = True

    # --- the app ---

    def send(self, size: int) -> None:
        number = len(self.sizes) + 1
        try:
            self.buffer.put_nowait(Element(number, size), size)
        except CommandBufferFull:
            return
        self.record(Send("server", number, number, size))
        self.sizes.append(size)

    @property
    def may_take(self) -> bool:
        return not self.ended and (bool(self.mailbox.events) or self.events_ended)

    def take_next(self) -> None:
        """Wait for the next event; when there will be none, end."""
        if not self.mailbox.events:
            self.ended = True
            return
        event = self.mailroom.next_in_thread(self.mailbox, None)
        assert event is not None
        self.delivered += 1
        self.record(Deliver("server", self.delivered, event["data"]))
        if self.room:
            self.room = False
            self.take_over()

    def end(self) -> None:
        """Return, whatever the client still says."""
        self.record(Stop("server"))
        self.ended = True


class Session(RuleBasedStateMachine):
    """The network, the applications' whims, and the checker.

    Steps are large, and a client without a stream attaches by itself, so that most of a run is conversation.
    """

    @initialize(
        events=EVENT_WINDOWS,
        commands=COMMAND_WINDOWS,
        length=st.integers(0, 20),
        answered=st.sampled_from([True, False]),
        client_pace=PACES,
        server_pace=PACES,
    )
    def begin(
        self, events: Window, commands: Window, length: int, answered: bool, client_pace: int, server_pace: int
    ) -> None:
        self.history: list[Record] = []
        self.checker = Checker()
        self.client = Client(self.record, commands)
        self.server = Server(self.record, events, commands)
        self.event_window, self.command_window = events, commands
        self.client_pace, self.server_pace = client_pace, server_pace
        self.length = length  # elements one way before that side ends the session
        self.streams: list[Stream] = []
        self.attach(commands, eager=False)
        if answered:
            self.carry()
            self.server.write(MAX_SIZE, ack=False)
            self.carry()

    def record(self, record: Record) -> None:
        self.history.append(record)
        self.checker.feed(record)

    # --- the two sides ---

    def attach(self, window: Window, eager: bool) -> None:
        stream = Stream(len(self.streams) + 1)
        self.streams.append(stream)
        resumes = self.client.opened
        self.client.attach(stream, window if resumes else self.command_window, eager)

    @rule(step=STEPS)
    def converse(self, step: Step) -> None:
        """Let each side do something or nothing, and some of what is under way arrive. All rules end with this."""
        self.client_acts(step.client, step.attach)
        if self.client.stream is not None:
            self.carry_some(self.client.stream, step.up, 0, step.twice)
        self.server_acts(step.server)
        if self.client.stream is not None:
            self.carry_some(self.client.stream, 0, step.down, step.twice)

    def client_acts(self, turn: Turn, attach: AttachOptions) -> None:
        client = self.client
        for size in turn.sends:
            if client.may_send:
                client.send(size)
        for _ in range(min(turn.takes, self.client_pace)):
            client.take_next()
        if client.stream is None and not client.done:
            if client.opened:
                self.event_window = attach.event_window  # the first is that of the mailboxes
            self.attach(attach.command_window, attach.eager)
        for _ in range(turn.writes):
            if client.attached:
                client.write(turn.batch, turn.ack)

    def server_acts(self, turn: Turn) -> None:
        server = self.server
        for size in turn.sends:
            if not server.ended:
                server.send(size)
        for _ in range(min(turn.takes, self.server_pace)):
            if server.may_take:
                server.take_next()
        for _ in range(turn.writes):
            if server.stream is not None:
                server.write(turn.batch, turn.ack)

    @rule(now=st.booleans(), step=STEPS)
    def client_closes(self, now: bool, step: Step) -> None:
        if not self.client.closing and len(self.client.sizes) >= self.length:
            self.client.close(now)
        self.converse(step)

    @rule(step=STEPS)
    def server_ends(self, step: Step) -> None:
        if not self.server.ended and len(self.server.sizes) >= self.length:
            self.server.end()
        self.converse(step)

    # --- the network ---

    @rule(
        up=st.integers(0, 3), down=st.integers(0, 3), client_knows=st.booleans(), server_knows=st.booleans(), step=STEPS
    )
    def cut(self, up: int, down: int, client_knows: bool, server_knows: bool, step: Step) -> None:
        """Lose the tail of what was written; a side that does not notice goes on writing."""
        stream = self.client.stream
        if stream is not None:
            stream.cut = True
            stream.up = deque(list(stream.up)[:up])
            stream.down = deque(list(stream.down)[:down])
            if client_knows:
                self.client.detach()
            if server_knows:
                self.server.lose(stream)
        self.converse(step)

    @rule(step=STEPS)
    def client_gives_up(self, step: Step) -> None:
        """Leave a stream, cut or seemingly dead; what is on it may still arrive."""
        self.client.detach()
        self.converse(step)

    @rule(which=st.integers(0, 3), step=STEPS)
    def server_notices(self, which: int, step: Step) -> None:
        """See the end of a stream, also of one that something newer has replaced."""
        ended = [stream for stream in self.streams if stream.cut or stream is not self.client.stream]
        if ended:
            self.server.lose(ended[-1 - which % len(ended)])
        self.converse(step)

    @rule(which=st.integers(0, 3), up=st.integers(1, 4), step=STEPS)
    def late_messages_arrive(self, which: int, up: int, step: Step) -> None:
        """Those of an old stream: an `open` or `resume` among them takes the session over, all else must do nothing."""
        late = [stream for stream in self.streams if stream is not self.client.stream and stream.up]
        if late:
            self.carry_some(late[-1 - which % len(late)], up, 1)
        self.converse(step)

    def carry(self) -> None:
        for stream in self.streams:
            self.carry_some(stream, len(stream.up), len(stream.down) + 1)  # a refusal may come on top

    def carry_some(self, stream: Stream, up: int, down: int, twice: bool = False) -> None:
        """Let messages arrive; if ``twice``, then whatever has been here does nothing when it comes again (D2, D3).

        Again comes what the message before held, together with what is new, and then both messages by themselves.
        """
        before_up, before_down = Request(), Response()
        while stream.up and up:
            up -= 1
            request = stream.up.popleft()
            if twice and request.first == before_up.first + len(before_up.events):
                request = replace(request, first=before_up.first, events=before_up.events + request.events)
            self.server.read(stream, request, self.event_window)
            for again in (before_up, request):
                if twice and not again.attach:
                    self.server.read(stream, again, self.event_window)
            before_up = request
        while stream.down and down:
            down -= 1
            response = stream.down.popleft()
            if twice and response.first == before_down.first + len(before_down.commands):
                response = replace(response, first=before_down.first, commands=before_down.commands + response.commands)
            self.client.read(stream, response)
            for repeated in (before_down, response):
                if twice and not repeated.answer:
                    self.client.read(stream, repeated)
            before_down = response

    # --- the end ---

    def teardown(self) -> None:
        """Let everything late arrive and the network hold: then all that was promised comes about."""
        if not hasattr(self, "client"):
            return
        client, server = self.client, self.server
        if client.stream is not None and client.stream.cut:
            client.detach()
        self.carry()
        for _ in range(2 * (len(client.sizes) + len(server.sizes)) + 6):
            if client.stream is None and not client.done:
                self.attach(self.command_window, eager=False)
            self.carry()
            while server.may_take:
                server.take_next()
            while server.stream is not None and server.write(MAX_SIZE, ack=True):
                self.carry()
            while client.take_next():
                pass
            if client.attached:
                client.write(MAX_SIZE, ack=True)
            if client.done:
                break
        self.checker.finish()
        assert client.closed or client.outbox.empty
        assert client.done or (server.outbox.empty and not server.buffer.count)
        assert server.outbox.final is client.closed

    # --- what holds after every step ---

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        client, server = self.client, self.server
        for side in (client, server):
            assert side.outbox.last <= len(side.sizes)
        events, commands = server.inbox.taken, client.inbox.taken
        waiting, mail = server.inbox.expected - 1, server.mailbox.events
        held = client.size_of(events + 1, waiting) + sum(size for _, size in mail)
        self.record(Held("server", "events", waiting - events + len(mail), held))
        kept = server.outbox.acked
        self.record(Held("server", "commands", len(server.sizes) - kept, server.size_of(kept + 1, len(server.sizes))))
        kept = client.outbox.acked
        self.record(Held("client", "events", len(client.sizes) - kept, client.size_of(kept + 1, len(client.sizes))))
        waiting = client.inbox.expected - 1
        self.record(Held("client", "commands", waiting - commands, server.size_of(commands + 1, waiting)))


TestGuaranteesHoldWhateverTheNetworkDoes = Session.TestCase
TestGuaranteesHoldWhateverTheNetworkDoes.settings = settings.get_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "robustness")
)
