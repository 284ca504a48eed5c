/**
 * A client's side of one session without IO: what to write next, and what a response means.
 *
 * It outlives streams. For each stream the caller writes `firstRequest`, then whatever `nextRequest` returns whenever
 * something has changed, and hands every response to `receive`. The rules are those of docs/protocol.md, D1 to E1.
 */
import { randomUUID } from "node:crypto";

import { create, toBinary, type Registry } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";

import { Inbox } from "./delivery/inbox.js";
import { Outbox } from "./delivery/outbox.js";
import { Violation } from "./delivery/violation.js";
import { DEFAULT_WINDOW, NO_WINDOW, type Window } from "./delivery/window.js";
import { PayloadError } from "./errors.js";
import {
  AttachRequestSchema,
  CloseSchema,
  CommandSchema,
  CloseReason as WireCloseReason,
  type AttachRequest,
  type AttachResponse,
  type Close,
  type Closed as ClosedMessage,
  type Command as CommandMessage,
  type Event,
  type Limits,
  type Open,
  type Window as WindowMessage,
} from "./gen/session_service/v1/session_pb.js";
import { decodeSpec, encodeEvent } from "./payload.js";

/** The most that a message of several events holds, in bytes, where the server takes that much (protocol F7). */
const BATCH_SIZE = 256 * 1024;

/** What an event takes in a batch beside its own bytes, at most: its tag and its length. */
const EVENT_FRAMING = 4;

/** What a message keeps free for its other parts. */
const MESSAGE_OVERHEAD = 1024;

/** In UTF-16 units; the server cuts it about there, too. */
const LONGEST_REASON = 1000;

const DEFAULT_MAX_MESSAGE = 4_000_000;

const NOTHING = { first: 0, batch: [] };

/** An event, and its size in bytes. */
export interface Sendable {
  readonly item: Event;
  readonly size: number;
}

/** What the app sent. */
export interface Command {
  /** Its name. */
  readonly command: string;
  /** The task that sent it; answer with an event for that task. */
  readonly taskId: string;
  /**
   * A JSON value, a `Uint8Array` or a protobuf message. In JSON an integer beyond 2^53 is a bigint. A message is an
   * `Any`, unless the client's registry knows its type.
   */
  readonly spec: unknown;
}

/** Who or what ended a session (protocol E4); UNSPECIFIED is one that a newer server knows. */
export type CloseReason = keyof typeof WireCloseReason;

/** How the session ended. */
export interface Closed {
  readonly reason: CloseReason;
  /** For people; names the error id where the app failed. */
  readonly message: string;
}

/**
 * Where a client is in a session: what another process needs to go on. Plain data, so `JSON.stringify` saves it. It
 * holds the token, so it is a secret.
 */
export interface Position {
  /** The session. */
  readonly id: string;
  /** Resumes it. */
  readonly token: string;
  /** The last command that the application has in hand, or had. */
  readonly received: number;
  /** The last event that was sent. */
  readonly sent: number;
}

type Item =
  { readonly kind: "command"; readonly command: Command } | { readonly kind: "closed"; readonly closed: Closed };

export class Conversation {
  /** The session's id; empty before the first answer. */
  id = "";
  /** Whether it outlives its streams. */
  readonly resumable: boolean;
  /** The current stream has been answered. */
  attached = false;
  /** How it ended, known before the application has taken what came before. */
  closed: Closed | undefined;
  /** The server has said that it shuts down. */
  draining = false;
  /** No event may be written for now (protocol D7). */
  held = false;
  /** Milliseconds of silence after which an empty message is due. */
  heartbeatMs = 25_000;

  outbox: Outbox<Event>;
  readonly inbox: Inbox<Item>;

  readonly #opening: Open | undefined;
  readonly #clientId: string;
  readonly #commandWindow: Window;
  readonly #registry: Registry | undefined;
  #token = "";
  #adopts: boolean; // only the server knows which event is the next
  #maxMessage = DEFAULT_MAX_MESSAGE;
  #holding = false; // the application works on the head of the inbox
  readonly #ready: Item[] = []; // acknowledged before it was asked for, since we are closing
  #close: Close | undefined;
  #closeWritten = false;
  #openWritten = false;
  #givenUp = false;

  /** Begins with an `Open`, or goes on from a `Position`. */
  constructor(start: { opening: Open } | { position: Position }, commandWindow: Window, registry?: Registry) {
    const position = "position" in start ? start.position : undefined;
    this.#opening = "opening" in start ? start.opening : undefined;
    this.resumable = this.#opening?.resumable ?? true;
    this.#clientId = this.#opening?.clientId ?? randomUUID();
    this.#commandWindow = commandWindow;
    this.#registry = registry;
    this.#adopts = position !== undefined;
    this.id = position?.id ?? "";
    this.#token = position?.token ?? "";
    this.outbox = new Outbox<Event>(NO_WINDOW, position?.sent ?? 0);
    this.inbox = new Inbox<Item>(commandWindow, position?.received ?? 0);
  }

  // --- for the application ---------------------------------------------------------------------------------------

  /**
   * Where this client is; the command in hand counts as done. It could not be resumed from otherwise: asking for the
   * next command acknowledges it.
   */
  get position(): Position {
    const received = this.inbox.taken + (this.#holding ? 1 : 0);
    return { id: this.id, token: this.#token, received, sent: this.outbox.last };
  }

  /** True once the session is known to exist. */
  get opened(): boolean {
    return this.id !== "";
  }

  /** The last event that the server has said it took over; of a plain session it says nothing. */
  get takenOver(): number {
    return this.resumable && !this.#adopts ? this.outbox.acked : 0;
  }

  /** True once `close` was called. */
  get closing(): boolean {
    return this.#close !== undefined;
  }

  /** True when an app of ours may be running that nobody has told us of. */
  get mayHaveOpened(): boolean {
    return this.#openWritten && this.resumable;
  }

  /**
   * Makes an event of `data`, for `send`.
   *
   * @throws {@link PayloadError} `data` cannot be carried exactly, or is too large.
   */
  encode(event: string, data: unknown, taskId: string): Sendable {
    const sendable = encodeEvent(event, taskId, data, this.#registry);
    this.#checkSize(sendable);
    return sendable;
  }

  /**
   * Adds an event; returns false where the window has no room.
   *
   * @throws {@link PayloadError} it is too large by now; it has no sequence, so that nothing behind it is blocked (F7).
   */
  send(sendable: Sendable): boolean {
    if (!this.outbox.hasRoom) return false;
    this.#checkSize(sendable);
    this.outbox.append(sendable.item, sendable.size);
    return true;
  }

  #checkSize({ size }: Sendable): void {
    const most = this.#maxMessage - MESSAGE_OVERHEAD;
    if (size <= most) return;
    throw new PayloadError("data", `the event is ${String(size)} bytes, of at most ${String(most)}: send it in parts`);
  }

  /** Acknowledges the command that `take` gave out last: the application has done with it (protocol D4). */
  release(): void {
    if (this.#holding) {
      this.#holding = false;
      this.inbox.take();
    }
  }

  /** Returns the next command; undefined when none is there. Taking what stands behind the last acknowledges the end. */
  take(): Command | undefined {
    this.release();
    let item = this.#ready.shift();
    if (item === undefined) {
      item = this.inbox.head;
      this.#holding = item !== undefined;
    }
    if (item?.kind === "command") return item.command;
    this.release();
    return undefined;
  }

  /** Ends the session: behind what has been sent, or `now`. */
  close(reason: string, now: boolean): void {
    if (this.#close === undefined || (now && !this.#close.now)) {
      this.#close = create(CloseSchema, { reason: reason.slice(0, LONGEST_REASON).toWellFormed(), now });
      this.#closeWritten = false;
      this.takeAll();
    }
  }

  /** Ends a session that nobody waits for any more, on this stream or the next, before it is answered (protocol A6). */
  giveUp(): void {
    this.#givenUp = true;
    this.close("the open was given up", true);
  }

  /**
   * Acknowledges everything, and keeps it for `take`.
   *
   * After `close` that is done at once with whatever comes: else a full window and a graceful close would wait for each
   * other (protocol D4).
   */
  takeAll(): void {
    this.release();
    for (let head = this.inbox.head; head !== undefined; head = this.inbox.head) {
      this.#ready.push(head);
      this.inbox.take();
    }
  }

  // --- for the stream --------------------------------------------------------------------------------------------

  /** True when nothing is left to be said, to either side. */
  get finished(): boolean {
    const told = !this.resumable || (this.inbox.head === undefined && !this.inbox.ackPending);
    return this.closed !== undefined && told;
  }

  /** True when there is nothing to be written any more, ever. */
  get said(): boolean {
    return this.finished || (this.#givenUp && this.#closeWritten);
  }

  /** Begins a stream; returns what to write first. */
  firstRequest(): AttachRequest {
    this.attached = false;
    this.held = false;
    this.#closeWritten = false;
    const received = this.inbox.expected - 1;
    this.inbox.restartAcks(received);
    if (!this.opened && this.#opening !== undefined) {
      this.#openWritten = true;
      return create(AttachRequestSchema, { control: { case: "open", value: this.#opening } });
    }
    return create(AttachRequestSchema, {
      control: {
        case: "resume",
        value: {
          sessionId: this.id,
          resumeToken: this.#token,
          received: BigInt(received),
          commandWindow: this.#commandWindow,
          clientId: this.#clientId,
        },
      },
    });
  }

  /**
   * Returns what to write next; undefined when nothing is due.
   *
   * @param ack acknowledge even if nothing else is to be written.
   * @param heartbeat write something in any case.
   * @param suspicious the first unacknowledged event may be poisoned: write it alone, and nothing behind it (protocol D7).
   */
  nextRequest({ ack = false, heartbeat = false, suspicious = false } = {}): AttachRequest | undefined {
    if (!this.attached && !this.#givenUp) return undefined;
    const most = Math.min(BATCH_SIZE, this.#maxMessage);
    const { first, batch } = this.#takeBatch(most - MESSAGE_OVERHEAD, suspicious);
    const request = create(AttachRequestSchema, { events: batch });
    let due = heartbeat || batch.length > 0;
    if (this.resumable) {
      if (batch.length > 0) request.firstSequence = BigInt(first);
      if (this.inbox.ackPending && (due || ack || this.inbox.ackDue)) {
        request.ack = BigInt(this.inbox.ack());
        due = true;
      }
    } else {
      this.outbox.ack(this.outbox.sent);
    }
    const mayClose = this.#close?.now === true || !this.outbox.waiting;
    if (this.#close !== undefined && !this.#closeWritten && mayClose) {
      request.control = { case: "close", value: this.#close };
      const fits = batch.length === 0 || toBinary(AttachRequestSchema, request).length <= most;
      if (fits) this.#closeWritten = due = true;
      else request.control = { case: undefined }; // the next message is for it
    }
    return due ? request : undefined;
  }

  #takeBatch(size: number, suspicious: boolean): { first: number; batch: Event[] } {
    if (this.held) return NOTHING;
    if (!suspicious) return this.outbox.take(size, EVENT_FRAMING);
    return this.outbox.sent > this.outbox.acked ? NOTHING : this.outbox.take(0);
  }

  /**
   * Takes a response.
   *
   * @throws {@link Violation} or {@link PayloadError}: it breaks the stream (protocol D7).
   */
  receive(response: AttachResponse): void {
    const { control } = response;
    if (!this.attached && !this.#onAnswer(response)) return;
    if (response.ack > 0n && this.resumable) this.outbox.ack(Number(response.ack));
    if (response.commands.length > 0) this.#onCommands(Number(response.firstSequence), response.commands);
    if (control.case === "closed") this.#onClosed(control.value);
    else if (control.case === "draining") this.draining = true;
    if (this.closing) this.takeAll();
  }

  #onCommands(firstSequence: number, commands: readonly CommandMessage[]): void {
    const first = this.resumable ? firstSequence : this.inbox.expected;
    for (const message of commands.slice(this.inbox.skip(first, commands.length))) {
      const command = { command: message.command, taskId: message.taskId, spec: decodeSpec(message, this.#registry) };
      // Its window bounds a resumable server; a plain one is held back by HTTP/2.
      this.inbox.put({ kind: "command", command }, toBinary(CommandSchema, message).length, !this.resumable);
    }
  }

  #onAnswer({ control, commands }: AttachResponse): boolean {
    if (control.case === "opened" && !this.opened) {
      if (control.value.sessionId === "") throw new Violation("the server opened a session without an id");
      this.id = control.value.sessionId;
      this.#token = control.value.resumeToken;
      this.outbox.resume(0);
      this.#onLimits(control.value.limits);
    } else if (control.case === "resumed" && this.opened) {
      const received = Number(control.value.received);
      if (this.#adopts) {
        this.#adopts = false;
        this.outbox = new Outbox<Event>(NO_WINDOW, received);
      }
      this.outbox.resume(received);
      this.outbox.ack(received);
      this.#onLimits(control.value.limits);
    } else if (control.case === "failed" || (control.case === undefined && commands.length === 0)) {
      return false; // a refusal, which is the stream's; or a heartbeat
    } else {
      throw new Violation(`the server began with ${control.case ?? "commands"}`);
    }
    return (this.attached = true);
  }

  #onLimits(limits: Limits | undefined): void {
    this.outbox.window = granted(limits?.eventWindow);
    if (this.resumable) this.inbox.window = granted(limits?.commandWindow);
    this.#maxMessage = limits?.maxMessageBytes || DEFAULT_MAX_MESSAGE;
    const interval = limits?.heartbeatInterval === undefined ? 0 : durationMs(limits.heartbeatInterval);
    if (interval > 0) this.heartbeatMs = interval;
  }

  #onClosed({ reason, message, sequence }: ClosedMessage): void {
    if (this.inbox.skip(this.resumable ? Number(sequence) : this.inbox.expected, 1) === 0) {
      const name = (WireCloseReason[reason] as CloseReason | undefined) ?? "UNSPECIFIED";
      this.closed = { reason: name, message };
      this.inbox.put({ kind: "closed", closed: this.closed }, 0, true);
    }
  }
}

/** Reads a window; what is absent means the default (protocol D5). */
function granted(window: WindowMessage | undefined): Window {
  return {
    messages: window?.messages || DEFAULT_WINDOW.messages,
    bytes: window?.bytes || DEFAULT_WINDOW.bytes,
  };
}
