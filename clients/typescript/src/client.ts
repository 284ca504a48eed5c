/** A client of one server. */
import { randomUUID } from "node:crypto";
import type { SecureClientSessionOptions } from "node:http2";

import { create, type Registry } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";

import { parseAddress } from "./address.js";
import { Connections } from "./connections.js";
import { Conversation, type Position } from "./conversation.js";
import type { Credentials } from "./credentials.js";
import { DEFAULT_WINDOW, type Window } from "./delivery/window.js";
import { SessionEnded } from "./errors.js";
import { OpenSchema, PayloadFormat, SessionService, WindowSchema } from "./gen/session_service/v1/session_pb.js";
import { encodeParams } from "./payload.js";
import { DEFAULT_RETRY, type RetryPolicy } from "./retry.js";
import { Session, type Abortable, type Attachment, type Surroundings } from "./session.js";
import type { Connection } from "./stream.js";
import { createGrpcTransport } from "./transport.js";
import { failingInTurn, inTurn } from "./turn.js";

/** How a client connects, and comes back. */
export interface ClientOptions {
  /** Asked at each attach for metadata, such as `{authorization: "Bearer ..."}`. */
  readonly credentials?: Credentials;
  /** For TLS, `{}` with Node's defaults; plain text without. */
  readonly tls?: SecureClientSessionOptions;
  /** How it comes back after a lost connection. */
  readonly retry?: RetryPolicy;
  /** How many commands, and bytes of them, may wait for the application; 1,024 and 1 MiB by default. */
  readonly commandWindow?: Window;
  /** The protobuf messages that events and commands may hold; see `createRegistry` of @bufbuild/protobuf. */
  readonly registry?: Registry;
  /**
   * Silence of the connection after which to ask whether the server is there. 20,000 by default; less than half of the
   * server's own setting, which is the same by default, would be taken for abuse.
   */
  readonly keepaliveMs?: number;
  /** What the server has to answer; then the connection counts as lost. 10,000 by default. */
  readonly keepaliveTimeoutMs?: number;
  /** Called when a session is attached, resumed or has lost its stream. */
  readonly onAttachment?: (attachment: Attachment) => void;
}

/** How a session is opened. */
export interface OpenOptions {
  /** JSON values for the app; as doubles, so integers stay within 2^53. */
  readonly params?: Readonly<Record<string, unknown>>;
  /** Those of the person's browser, for the session's information; see ParseSessionInfo. */
  readonly headers?: Readonly<Record<string, string>>;
  /** A plain session, which ends with its stream: no reconnecting, nothing to resume. */
  readonly plain?: boolean;
  /** How long the server shall keep it without a connection; what the server allows by default. */
  readonly resumeWindowMs?: number;
  /** Makes repeating this open safe; a random UUID by default. */
  readonly requestId?: string;
  /** Gives up opening: what the server has made of it by then is ended. Of no effect once the session is open. */
  readonly signal?: AbortSignal;
}

const CLOSED = "the client is closed: make a new one";

/**
 * Opens and resumes the sessions of one server. `await using` closes it, and so does `close()`.
 *
 * ```ts
 * await using client = new SessionClient("localhost:50051");
 * await using session = await client.open("greet", { params: { name: "Ada" } });
 * for await (const command of session) {
 *   if (command.command === "ask") await session.send("answer", 36, { taskId: command.taskId });
 * }
 * console.log(session.closed?.reason);
 * ```
 */
export class SessionClient implements AsyncDisposable {
  readonly #connections: Connections;
  readonly #surroundings: Surroundings;
  readonly #commandWindow: Window;
  readonly #registry: Registry | undefined;
  readonly #sessions = new Set<Session>();
  #closed = false;

  /**
   * Nothing is connected before a session is opened.
   *
   * @param address `HOST:PORT` or `unix:PATH`.
   * @throws {TypeError} `address` is neither.
   */
  constructor(address: string, options: ClientOptions = {}) {
    const { tls, keepaliveMs = 20_000, keepaliveTimeoutMs = 10_000 } = options;
    const connections = new Connections(parseAddress(address), tls, {
      intervalMs: keepaliveMs,
      timeoutMs: keepaliveTimeoutMs,
    });
    this.#connections = connections;
    const service = createClient(SessionService, createGrpcTransport(connections));
    const connection: Connection = {
      attach: (requests, headers, signal) => service.attach(requests, { headers, signal }),
      onNoAnswer: () => {
        // A connection that hangs while it is made, before there can be pings, would hold up the next tries as well.
        connections.abortConnecting("the connection could not be made in time");
      },
    };
    this.#surroundings = {
      connection,
      credentials: options.credentials,
      retry: { ...DEFAULT_RETRY, ...options.retry },
      onAttachment: options.onAttachment,
    };
    this.#commandWindow = options.commandWindow ?? DEFAULT_WINDOW;
    this.#registry = options.registry;
  }

  /**
   * Opens a session: runs an app.
   *
   * @throws {@link PayloadError} `params` cannot be carried exactly.
   * @throws {@link SessionClientError} it was refused, or could not be reached in time.
   */
  async open(app: string, options: OpenOptions = {}): Promise<Session> {
    return failingInTurn(this.#open(app, options));
  }

  async #open(app: string, options: OpenOptions): Promise<Session> {
    const { params = {}, headers = {}, plain = false, resumeWindowMs, requestId, signal } = options;
    const opening = create(OpenSchema, {
      app,
      params: encodeParams(params),
      headers,
      resumable: !plain,
      commandFormat: PayloadFormat.JSON,
    });
    if (!plain) {
      opening.requestId = requestId || randomUUID();
      opening.clientId = randomUUID();
      opening.commandWindow = create(WindowSchema, this.#commandWindow);
      if (resumeWindowMs !== undefined) opening.resumeWindow = durationFromMs(resumeWindowMs);
    }
    return this.#start({ opening }, signal);
  }

  /**
   * Goes on with a session that another process, or this one, has left.
   *
   * Commands after `position.received` come again. Events after what the server has taken over died with the other
   * process; `Session.takenOver` says where to go on.
   *
   * @throws {@link SessionClientError} it was refused, or could not be reached in time.
   */
  async resume(position: Position, { signal }: Abortable = {}): Promise<Session> {
    return failingInTurn(this.#start({ position }, signal));
  }

  /**
   * Closes the connections; the server keeps sessions that are not closed for their resume window.
   *
   * An open that is still under way is given up, and its session ended; that may take 5 seconds.
   */
  async close(): Promise<void> {
    this.#closed = true;
    await inTurn(Promise.all([...this.#sessions].map((session) => session.leave())));
    this.#connections.abort();
  }

  /** See `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #start(
    start: ConstructorParameters<typeof Conversation>[0],
    signal: AbortSignal | undefined,
  ): Promise<Session> {
    if (this.#closed) throw new SessionEnded(CLOSED);
    const session = new Session(new Conversation(start, this.#commandWindow, this.#registry), this.#surroundings);
    this.#sessions.add(session);
    await session.start({ signal }, () => this.#sessions.delete(session));
    return session;
  }
}
