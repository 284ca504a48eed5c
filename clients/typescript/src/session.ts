/** A session as an application sees it. */
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";

import type { Closed, Command, Conversation, Position, Sendable } from "./conversation.js";
import { askFor, type Credentials } from "./credentials.js";
import { SessionClientError, SessionEnded, SessionLost, type PayloadError } from "./errors.js";
import { Retries, type RetryPolicy } from "./retry.js";
import { Stream, type Connection } from "./stream.js";
import { failingInTurn, inTurn } from "./turn.js";
import { verdict } from "./verdict.js";

/** How long an open that was given up may take to be ended (protocol A6). */
const GIVE_UP_MS = 5_000;

/** How long the end of a session waits for the server to have heard of the last acknowledgement. */
const LEAVE_MS = 5_000;

/** Aborts a call that waits. It rejects with the signal's reason, and the session is as usable as before. */
export interface Abortable {
  readonly signal?: AbortSignal | undefined;
}

/** What has happened to the stream of a session. */
export interface Attachment {
  readonly session: Session;
  readonly state: "attached" | "resumed" | "lost";
  /** Why it was lost; empty otherwise. */
  readonly error: string;
  /** Until the next try, if it was lost; undefined where there will be none. */
  readonly retryInMs: number | undefined;
}

/** What a session needs of its client. */
export interface Surroundings {
  readonly connection: Connection;
  readonly credentials: Credentials | undefined;
  readonly retry: Required<RetryPolicy>;
  readonly onAttachment: ((attachment: Attachment) => void) | undefined;
}

interface Sender {
  readonly sendable: Sendable;
  refusal?: PayloadError;
}

/**
 * One session; made by `SessionClient.open` and `SessionClient.resume`.
 *
 * Iterate over it for the commands. A command is acknowledged when the next one is asked for, or the session is left:
 * what an application had not taken before it died is sent again to whoever resumes. To leave the loop does not end the
 * session.
 *
 * `await using` closes it at the end of its block, as `close()` does; after `detach()` nothing happens.
 */
export class Session implements AsyncIterable<Command>, AsyncDisposable {
  readonly #conversation: Conversation;
  readonly #surroundings: Surroundings;
  readonly #left = new AbortController();
  readonly #waiters = new Set<() => void>();
  readonly #senders: Sender[] = []; // that wait for room, in order
  readonly #pause = new AbortController(); // ends the wait for the next try
  #givenUp: NodeJS.Timeout | undefined; // its open: nobody waits for it
  #repeated = false; // the try is the last one
  #supervisor: Promise<void> = Promise.resolve();
  #stream: Stream | undefined;
  #answered: Stream | undefined; // the stream that was counted last
  #attachments = 0;
  #error: SessionClientError | undefined;
  #told = false; // a call has thrown the error
  #detached = false;
  #reading = false;
  #over = false; // nothing will happen to it any more

  /** @internal */
  constructor(conversation: Conversation, surroundings: Surroundings) {
    this.#conversation = conversation;
    this.#surroundings = surroundings;
  }

  // --- what there is ---------------------------------------------------------------------------------------------

  /** The session's id: public, in the server's logs. */
  get id(): string {
    return this.#conversation.id;
  }

  /** How the session ended, known before the commands that came before have been taken; undefined until then. */
  get closed(): Closed | undefined {
    return this.#conversation.closed;
  }

  /** Whether the server has said that it shuts down. */
  get draining(): boolean {
    return this.#conversation.draining;
  }

  /** Whether a stream carries it just now. */
  get attached(): boolean {
    return this.#conversation.attached;
  }

  /**
   * The last event that the session is known to have taken over; after a `resume`, where to send from. Of a plain
   * session nothing is known: 0.
   */
  get takenOver(): number {
    return this.#conversation.takenOver;
  }

  /** Where this client is: save it, and `SessionClient.resume` goes on from there in another process. */
  get position(): Position {
    return this.#conversation.position;
  }

  // --- what to do ------------------------------------------------------------------------------------------------

  /**
   * Sends an event; waits while the window is full. It survives any number of lost connections.
   *
   * Events go in the order of the calls, awaited or not.
   *
   * @param event its name.
   * @param data a JSON value, a `Uint8Array` or a protobuf message, as it is now; nothing means null.
   * @param options.taskId the task, or the callback, that it is for; the main task by default.
   * @throws {@link PayloadError} `data` cannot be carried exactly.
   * @throws {@link SessionEnded} the session is over, or closed or detached by this client.
   * @throws {@link SessionClientError} it was lost or refused.
   */
  async send(event: string, data?: unknown, options: Abortable & { readonly taskId?: string } = {}): Promise<void> {
    await failingInTurn(this.#send(event, data, options));
  }

  async #send(event: string, data: unknown, options: Abortable & { readonly taskId?: string }): Promise<void> {
    const { signal, taskId = "" } = options;
    signal?.throwIfAborted();
    this.#checkSend();
    const sender: Sender = { sendable: this.#conversation.encode(event, data, taskId) };
    this.#senders.push(sender);
    this.#admit();
    try {
      while (this.#senders.includes(sender)) {
        await this.#change(signal);
        if (!this.#senders.includes(sender)) break; // it was sent, whatever else has happened at once
        signal?.throwIfAborted();
        this.#checkSend();
      }
    } finally {
      const index = this.#senders.indexOf(sender);
      if (index >= 0) this.#senders.splice(index, 1);
    }
    if (sender.refusal !== undefined) throw sender.refusal;
  }

  /** The commands, until the session has ended; each one that is asked for acknowledges the one before. */
  [Symbol.asyncIterator](): AsyncIterator<Command> {
    return this.commands()[Symbol.asyncIterator]();
  }

  /** As iterating over the session itself, with a signal that ends the wait for the next command. */
  commands({ signal }: Abortable = {}): AsyncIterable<Command> {
    // Without `return`: a loop that is left leaves the session as it is.
    return { [Symbol.asyncIterator]: () => ({ next: () => failingInTurn(this.#next(signal)) }) };
  }

  /**
   * Ends the session and waits for its end; events sent before are still taken, deferred calls run.
   *
   * Commands that come meanwhile can be iterated over afterwards.
   *
   * @param options.reason for the server's log.
   * @param options.now cancel the app's tasks instead of letting them finish.
   * @param options.signal ends the wait, not the closing.
   * @throws {@link SessionEnded} it has been detached.
   * @throws {@link SessionClientError} it was lost or refused.
   */
  async close(options: Abortable & { readonly reason?: string; readonly now?: boolean } = {}): Promise<Closed> {
    return inTurn(this.#close(options));
  }

  async #close(options: Abortable & { readonly reason?: string; readonly now?: boolean }): Promise<Closed> {
    const { reason = "", now = false, signal } = options;
    signal?.throwIfAborted();
    if (this.#detached) throw new SessionEnded("the session is detached: resume it to close it");
    this.#conversation.close(reason, now);
    this.#wake();
    this.#fire();
    while (this.closed === undefined) {
      this.#check();
      await this.#change(signal);
      signal?.throwIfAborted();
    }
    await this.#finish(signal);
    return this.closed;
  }

  /**
   * Leaves the session running without this client, once it has taken over all events; returns where to go on.
   *
   * The command that was taken last counts as done.
   *
   * @throws {@link SessionEnded} it is plain, so it ends with its stream.
   * @throws {@link SessionClientError} it was lost or refused.
   */
  async detach({ signal }: Abortable = {}): Promise<Position> {
    return inTurn(this.#detach(signal));
  }

  async #detach(signal: AbortSignal | undefined): Promise<Position> {
    signal?.throwIfAborted();
    if (this.#detached) return this.position;
    if (this.closed === undefined) this.#check();
    if (!this.#conversation.resumable) {
      throw new SessionEnded("a plain session cannot be detached: open it without `plain`");
    }
    while (!this.#conversation.outbox.empty && this.closed === undefined) {
      this.#check();
      await this.#change(signal);
      signal?.throwIfAborted();
    }
    this.#detached = true;
    this.#conversation.release();
    await this.abandon();
    return this.position;
  }

  /** Closes the session, unless that has been done; tells an error that no call has told. */
  async [Symbol.asyncDispose](): Promise<void> {
    await inTurn(this.#dispose());
  }

  async #dispose(): Promise<void> {
    try {
      if (this.#detached || this.closed !== undefined || this.#error !== undefined) await this.#finish();
      else await this.#close({});
    } finally {
      await this.abandon();
    }
  }

  // --- for the client --------------------------------------------------------------------------------------------

  /** @internal Attaches it, and waits until that has succeeded; `onOver` is called when it is done for. */
  async start({ signal }: Abortable, onOver: () => void): Promise<void> {
    this.#supervisor = this.#supervise().finally(onOver);
    try {
      while (this.#attachments === 0 || this.#givenUp !== undefined) {
        signal?.throwIfAborted();
        this.#check();
        if (this.#givenUp !== undefined) throw new SessionEnded("the client was closed before the session was open");
        await this.#change(signal);
      }
    } catch (error) {
      this.#giveUp(); // in the background
      throw error;
    }
  }

  /** @internal Leaves the session as it is; one that has been read to its end lets the server know first. */
  async leave(): Promise<void> {
    if (this.#attachments === 0) this.#giveUp();
    if (this.#givenUp !== undefined) {
      await this.#supervisor;
      return;
    }
    if (this.closed !== undefined && this.#conversation.inbox.head === undefined) await this.#settle();
    await this.abandon();
  }

  /** @internal Leaves the session as it is, without a word to the server; calls that wait reject. */
  async abandon(): Promise<void> {
    this.#leave();
    await this.#supervisor;
  }

  // --- how -------------------------------------------------------------------------------------------------------

  async #next(signal: AbortSignal | undefined): Promise<IteratorResult<Command, undefined>> {
    if (this.#reading) throw new Error("another loop is waiting for this session's next command: only one can");
    this.#reading = true;
    try {
      for (;;) {
        signal?.throwIfAborted();
        const command = this.#detached ? undefined : this.#conversation.take();
        this.#wake();
        if (command !== undefined) return { done: false, value: command };
        if (this.#detached || this.closed !== undefined) {
          await turn(); // a program may ask for ever, as in failingInTurn
          return { done: true, value: undefined };
        }
        this.#check();
        await this.#change(signal);
      }
    } finally {
      this.#reading = false;
    }
  }

  #check(): void {
    if (this.#error !== undefined) {
      this.#told = true;
      throw this.#error;
    }
  }

  #checkSend(): void {
    if (this.closed !== undefined || this.#detached || this.#conversation.closing) {
      throw new SessionEnded("the session has ended: nothing can be sent any more");
    }
    this.#check();
  }

  /** Lets those who wait for room send, as far as there is some. */
  #admit(): void {
    if (this.closed !== undefined || this.#detached || this.#conversation.closing) return;
    for (let next = this.#senders[0]; next !== undefined; next = this.#senders[0]) {
      try {
        if (!this.#conversation.send(next.sendable)) break;
      } catch (error) {
        next.refusal = error as PayloadError; // a resume has brought a lower limit
      }
      this.#senders.shift();
      this.#wake();
    }
  }

  /** Attaches, again and again, until the session has ended or there is no hope. */
  async #supervise(): Promise<void> {
    const { connection, credentials, retry } = this.#surroundings;
    const conversation = this.#conversation;
    const retries = new Retries(retry, performance.now(), conversation.opened);
    let fresh = false; // refreshed credentials have been tried
    let defectAt: number | undefined;
    try {
      while (!this.#hasLeft()) {
        const metadata = await this.#ask(credentials, retry.attachTimeoutMs);
        if (this.#hasLeft()) break;
        const before = this.#attachments;
        this.#stream = new Stream(connection, conversation, retries, () => {
          this.#onResponse();
        });
        const end = await this.#stream.run(metadata, retry.attachTimeoutMs);
        this.#stream = undefined;
        if (end === undefined || this.#hasLeft()) break;
        if (this.#attachments > before) fresh = false;
        const unauthenticated = end.code === "UNAUTHENTICATED";
        const repeated = end.defectAt !== undefined && end.defectAt === defectAt;
        const exhausted = repeated || (fresh && unauthenticated);
        fresh ||= unauthenticated;
        defectAt = end.defectAt;
        const decision = retries.broke(performance.now(), { told: end.retry !== "", askedMs: end.retryDelayMs });
        const problem = verdict(conversation, end, decision, { exhausted, attached: this.#attachments > 0 });
        if (this.#givenUp) {
          // Where it was not answered, its app may run.
          if (this.#repeated || this.closed !== undefined || problem !== undefined || end.retry === "REOPEN") break;
          this.#repeated = true;
          continue;
        }
        // With `closed` in hand it is no loss: the server only has not heard the last ack.
        if (problem !== undefined && this.closed !== undefined) break;
        const delayMs = decision.action === "retry" && problem === undefined ? decision.delayMs : undefined;
        this.#tell("lost", `${end.reason || end.code}: ${end.message}`, delayMs);
        if (problem !== undefined) {
          this.#error = problem;
          if (decision.action !== "lose" || conversation.opened || end.retry === "REOPEN") break;
          this.#giveUp();
        }
        this.#fire(); // it is not attached any more
        await sleep(delayMs ?? 0, undefined, { signal: this.#pause.signal }).catch(() => undefined);
      }
    } catch (error) {
      if (error instanceof SessionClientError) this.#error = error;
      else this.#error = new SessionLost(`a defect of the client: ${String(error)}`, this.takenOver, { cause: error });
    } finally {
      clearTimeout(this.#givenUp);
      if (this.closed === undefined) this.#error ??= new SessionEnded("this client has left the session");
      this.#stream = undefined;
      this.#over = true;
      this.#fire();
    }
  }

  /** Ends an open that nobody waits for any more: its app may be running (protocol A6). */
  #giveUp(): void {
    if (this.#givenUp !== undefined || this.#over) return;
    if (!this.#conversation.mayHaveOpened) {
      this.#leave();
      return;
    }
    this.#givenUp = setTimeout(() => {
      this.#leave();
    }, GIVE_UP_MS);
    this.#repeated = this.#stream === undefined; // the next one is the repeat
    this.#conversation.giveUp();
    this.#pause.abort();
    this.#wake();
    this.#fire();
  }

  async #ask(credentials: Credentials | undefined, timeoutMs: number): Promise<Readonly<Record<string, string>>> {
    try {
      return await askFor(credentials, timeoutMs, this.#left.signal);
    } catch (error) {
      if (this.#hasLeft()) return {};
      throw new SessionLost(`asking for credentials failed: ${String(error)}`, this.takenOver, { cause: error });
    }
  }

  #onResponse(): void {
    if (this.attached && this.#stream !== this.#answered) {
      this.#answered = this.#stream;
      this.#attachments += 1;
      this.#tell(this.#attachments === 1 ? "attached" : "resumed");
    }
    this.#fire();
  }

  #tell(state: Attachment["state"], error = "", retryInMs?: number): void {
    if (this.#givenUp !== undefined) return;
    try {
      this.#surroundings.onAttachment?.({ session: this, state, error, retryInMs });
    } catch (defect) {
      process.emitWarning(`onAttachment of session ${this.id} failed: ${String(defect)}`);
    }
  }

  #leave(): void {
    this.#left.abort();
    this.#pause.abort();
    this.#stream?.leave();
  }

  #hasLeft(): boolean {
    return this.#left.signal.aborted;
  }

  #wake(): void {
    this.#stream?.wake();
  }

  /** Waits until something has changed, or the signal is aborted. */
  async #change(signal?: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      const onChange = () => {
        this.#waiters.delete(onChange);
        signal?.removeEventListener("abort", onChange);
        resolve();
      };
      this.#waiters.add(onChange);
      signal?.addEventListener("abort", onChange);
    });
  }

  #fire(): void {
    this.#admit();
    for (const waiter of this.#waiters) waiter();
  }

  /** Acknowledges what is left, and waits until the server has heard it. */
  async #finish(signal?: AbortSignal): Promise<void> {
    if (this.#detached) return;
    if (this.#error !== undefined) {
      if (!this.#told) this.#check(); // else the application knows, and may leave quietly
      return;
    }
    this.#conversation.takeAll();
    this.#wake();
    await this.#settle(signal);
  }

  /** Waits until the server has heard the last acknowledgement, or has had time enough. */
  async #settle(signal?: AbortSignal): Promise<void> {
    const deadline = performance.now() + LEAVE_MS;
    const timer = setTimeout(() => {
      this.#fire();
    }, LEAVE_MS + 1);
    try {
      while (!this.#over && performance.now() < deadline) {
        await this.#change(signal);
        signal?.throwIfAborted();
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
