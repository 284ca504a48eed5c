/** One Attach call: a reader, a writer and their clock. */
import { ConnectError } from "@connectrpc/connect";

import type { Conversation } from "./conversation.js";
import { SequenceGap, Violation } from "./delivery/violation.js";
import { PayloadError } from "./errors.js";
import type { AttachRequest, AttachResponse } from "./gen/session_service/v1/session_pb.js";
import type { Retries } from "./retry.js";
import { localEnd, statusIn, statusOf, type StreamEnd } from "./status.js";

/** An ack that nothing carries goes alone after this time (protocol D3). */
const ACK_DELAY_MS = 20;

/** Intervals of silence after which a stream counts as broken (protocol F3). */
const SILENT_INTERVALS = 3;

/** What a server has to end the call when everything has been said, or an error has been. */
const FAREWELL_MS = 5_000;

/** Where streams come from. */
export interface Connection {
  /** Starts an Attach call; aborting the signal cancels it. */
  attach(
    requests: AsyncIterable<AttachRequest>,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): AsyncIterable<AttachResponse>;
  /** Hears that a call had no answer: what has not connected by now shall be tried anew. */
  onNoAnswer(): void;
}

type TimerName = "attach" | "ack" | "heartbeat" | "hold" | "farewell";

/** Carries a conversation over one call, until the call or the session ends. */
export class Stream {
  // Aborted without a reason of its own: Connect tells a server CANCEL only then.
  readonly #call = new AbortController();
  readonly #wakeup = new Bell();
  readonly #room = new Bell();
  readonly #timers = new Map<TimerName, NodeJS.Timeout>();
  #waitsForRoom = false;
  #sentAt = performance.now();
  #receivedAt = performance.now();
  #ack = false;
  #heartbeat = false;
  #end: StreamEnd | undefined;
  #defect: { readonly error: unknown } | undefined;

  /** `changed` is called after each response. */
  constructor(
    private readonly connection: Connection,
    private readonly conversation: Conversation,
    private readonly retries: Retries,
    private readonly changed: () => void,
  ) {}

  /** Carries it; returns how the stream ended, undefined when the session has ended and everything is said. */
  async run(headers: Readonly<Record<string, string>>, attachTimeoutMs: number): Promise<StreamEnd | undefined> {
    this.#start("attach", attachTimeoutMs, () => {
      this.#break(`no answer within ${String(attachTimeoutMs)} ms`);
      this.connection.onNoAnswer();
    });
    try {
      const status = await this.#read(headers);
      if (this.#defect !== undefined) throw this.#defect.error;
      const end = this.#end ?? status;
      // The last ack may be lost with its stream; only the server's OK says that it has arrived.
      return this.conversation.finished && end.code === "OK" ? undefined : end;
    } finally {
      this.conversation.attached = false;
      for (const timer of this.#timers.values()) clearTimeout(timer);
      this.leave();
    }
  }

  /** Looks whether something is to be written: the application sent, took or closed something. */
  wake(): void {
    this.#room.ring();
    if (this.conversation.inbox.ackPending && !this.#timers.has("ack")) {
      this.#start("ack", ACK_DELAY_MS, () => {
        this.#ack = true;
        this.#wakeup.ring();
      });
    }
    this.#wakeup.ring();
  }

  /** Cancels the call: nothing that it still brings has an effect. */
  leave(): void {
    this.#call.abort();
    this.#wakeup.ring();
    this.#room.ring();
  }

  #hasLeft(): boolean {
    return this.#call.signal.aborted;
  }

  // --- the writer ------------------------------------------------------------------------------------------------

  /** Gives out each request when the one before has been written. */
  async *#requests(): AsyncGenerator<AttachRequest, void, void> {
    const { conversation } = this;
    yield conversation.firstRequest();
    while (!conversation.said && this.#end === undefined) {
      const request = this.#nextRequest();
      if (this.#hasLeft()) return;
      if (request !== undefined) {
        yield request; // throws where the write fails, and nobody listens: the status says why (protocol D7)
        this.#sentAt = performance.now();
        if (!conversation.resumable) this.changed(); // what is written makes room
      } else {
        await this.#wakeup.wait();
        if (this.#hasLeft()) return;
      }
    }
    this.#startFarewell(); // and half-closes (protocol E2)
  }

  #nextRequest(): AttachRequest | undefined {
    const ack = this.#ack || this.conversation.closed !== undefined;
    const heartbeat = this.#heartbeat;
    const { suspicious } = this.retries;
    this.#ack = this.#heartbeat = false;
    try {
      const request = this.conversation.nextRequest({ ack, heartbeat, suspicious });
      if (request !== undefined && request.firstSequence > 0n) {
        this.retries.written(performance.now(), this.conversation.outbox.sent);
      }
      return request;
    } catch (error) {
      this.#defect = { error };
      this.leave();
      return undefined;
    }
  }

  // --- the reader ------------------------------------------------------------------------------------------------

  /** Reads to the status, and returns that. */
  async #read(headers: Readonly<Record<string, string>>): Promise<StreamEnd> {
    const { conversation } = this;
    try {
      for await (const response of this.connection.attach(this.#requests(), headers, this.#call.signal)) {
        if (this.#hasLeft()) break;
        this.#receivedAt = performance.now();
        this.#onResponse(response);
        this.wake();
        this.changed();
        await this.#roomOfPlain();
      }
      return this.#hasLeft()
        ? localEnd("CANCELLED", "this client has cancelled the call")
        : localEnd("OK", "the call ended before the session had");
    } catch (error) {
      if (error instanceof Violation || error instanceof PayloadError) {
        const code = error instanceof SequenceGap ? "OUT_OF_RANGE" : "DATA_LOSS";
        return localEnd(code, `a bad response: ${error.message}`, conversation.inbox.expected);
      }
      if (!(error instanceof ConnectError)) throw error;
      return localFault(error, conversation.inbox.expected) ?? statusOf(error);
    }
  }

  #onResponse(response: AttachResponse): void {
    const { conversation, retries } = this;
    const { attached, outbox, inbox } = conversation;
    const { acked } = outbox;
    const { expected } = inbox;
    conversation.receive(response);
    if (conversation.resumable && conversation.outbox.acked > acked) {
      retries.acked(this.#receivedAt, conversation.outbox.acked);
    }
    if (inbox.expected > expected) retries.progressed(this.#receivedAt);
    if (conversation.attached && !attached) this.#onAttached();
    if (response.control.case === "failed") this.#onFailed(response.control.value.status);
  }

  /** The call is about to end with this error; a proxy may lose its status, and then this holds (protocol E2). */
  #onFailed(status: Uint8Array): void {
    this.#end ??= statusIn(status);
    if (this.#end !== undefined) this.#startFarewell();
  }

  /** Lets HTTP/2 hold the server of a plain session back while the application is slow (protocol P4). */
  async #roomOfPlain(): Promise<void> {
    const { conversation } = this;
    this.#waitsForRoom = true;
    while (!conversation.resumable && !conversation.inbox.hasRoom && !conversation.closing && !this.#hasLeft()) {
      await this.#room.wait();
    }
    this.#waitsForRoom = false;
  }

  // --- time ------------------------------------------------------------------------------------------------------

  #onAttached(): void {
    clearTimeout(this.#timers.get("attach"));
    const { conversation } = this;
    const { heartbeatMs } = conversation;
    this.#start("heartbeat", heartbeatMs, () => {
      this.#onHeartbeatTimer();
    });
    const holdMs = this.retries.attached(this.#receivedAt, { idle: conversation.outbox.empty, heartbeatMs });
    conversation.held = holdMs > 0;
    if (!conversation.held) return;
    this.#start("hold", holdMs, () => {
      conversation.held = false;
      this.#wakeup.ring();
    });
  }

  #onHeartbeatTimer(): void {
    const interval = this.conversation.heartbeatMs;
    const now = performance.now();
    if (this.#waitsForRoom) this.#receivedAt = now; // it is we who do not listen
    const silent = this.#receivedAt + interval * SILENT_INTERVALS;
    if (now >= silent) {
      this.#break(`the server was silent for ${String(interval * SILENT_INTERVALS)} ms`);
      return;
    }
    let due = this.#sentAt + interval;
    if (now >= due) {
      this.#heartbeat = this.conversation.resumable;
      this.#wakeup.ring();
      due = now + interval;
    }
    this.#start("heartbeat", Math.min(due, silent) - now, () => {
      this.#onHeartbeatTimer();
    });
  }

  #break(why: string): void {
    this.#end ??= localEnd("UNAVAILABLE", why);
    this.leave();
  }

  #startFarewell(): void {
    this.#start("farewell", FAREWELL_MS, () => {
      this.leave();
    });
  }

  #start(name: TimerName, ms: number, onTimer: () => void): void {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(
      name,
      setTimeout(() => {
        this.#timers.delete(name);
        onTimer();
      }, ms),
    );
  }
}

/**
 * What Connect found amiss with a response, undefined for a status. It has no codes of its own for that: a cut message
 * is INVALID_ARGUMENT to it, which would be final from a server (protocol D7).
 */
function localFault(error: ConnectError, expected: number): StreamEnd | undefined {
  if (error.metadata.has("grpc-status")) return undefined;
  const why = `a bad response: ${error.rawMessage}`;
  if (error.rawMessage.startsWith("parse binary: ")) return localEnd("DATA_LOSS", why, expected);
  return error.rawMessage.startsWith("protocol error: ") ? localEnd("INTERNAL", why) : undefined;
}

/** Wakes the one who waits; rung before, it wakes the next one at once. */
class Bell {
  #rung = false;
  #resolve: (() => void) | undefined;

  ring(): void {
    this.#rung = true;
    this.#resolve?.();
  }

  async wait(): Promise<void> {
    if (!this.#rung) {
      await new Promise<void>((resolve) => {
        this.#resolve = resolve;
      });
    }
    this.#rung = false;
  }
}
