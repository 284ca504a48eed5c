/**
 * The HTTP/2 connections to one server.
 *
 * Each session has a stream, and servers and proxies say how many streams may share a connection: nginx 128, HAProxy 100.
 * Node keeps a stream beyond that waiting without a word, and Connect's own manager has one connection. So here a stream
 * goes where one is free, and on a further connection where none is.
 */
import {
  connect,
  constants,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type ClientSessionOptions,
  type OutgoingHttpHeaders,
  type SecureClientSessionOptions,
} from "node:http2";
import { connect as connectTcp, type Socket } from "node:net";
import { constants as system } from "node:os";
import { connect as connectTls, TLSSocket } from "node:tls";

import { Code, ConnectError } from "@connectrpc/connect";

import type { Address } from "./address.js";

/** More than any server takes. */
const MAX_METADATA = 1 << 24;

/** What asking whether a port speaks TLS may take. */
const PROBE_MS = 2_000;

/** The caller has got something wrong, as far as can be told: trying again would not help. */
export class Mistake extends Error {
  override readonly name = "Mistake";
}

/** How to find out that a connection is dead. */
export interface Keepalive {
  /** Silence after which to ask. */
  intervalMs: number;
  /** What the answer may take. */
  readonly timeoutMs: number;
}

/** Makes connections as they are needed; what Connect calls a session manager. */
export class Connections {
  readonly authority: string;
  readonly #all = new Set<Connection>();
  #proven = false; // one has been made: what fails now is an outage, and no mistake

  /** Nothing is connected before the first request. */
  constructor(
    private readonly address: Address,
    private readonly tls: SecureClientSessionOptions | undefined,
    private readonly keepalive: Keepalive,
  ) {
    this.authority = new URL(this.url).origin;
  }

  /** The server's, for Connect. */
  get url(): string {
    return `${this.tls === undefined ? "http" : "https"}://${this.address.authority}`;
  }

  /** Starts a stream, where one is free. */
  async request(
    method: string,
    path: string,
    headers: OutgoingHttpHeaders,
    options: object,
  ): Promise<ClientHttp2Stream> {
    for (;;) {
      let connecting: Connection | undefined;
      for (const connection of this.#all) {
        // Asked and taken in one turn: many may have waited for this connection.
        if (connection.hasRoom) return connection.request({ ...headers, ":method": method, ":path": path }, options);
        if (connection.connecting) connecting = connection;
      }
      await (connecting ?? this.#add()).made;
    }
  }

  /** Hears that a stream has brought something, so its connection is alive. */
  notifyResponseByteRead(stream: ClientHttp2Stream): void {
    for (const connection of this.#all) connection.heard(stream);
  }

  /** Ends the connections that are not made yet. */
  abortConnecting(why: string): void {
    for (const connection of this.#all) {
      if (connection.connecting) connection.destroy(new ConnectError(why, Code.Unavailable));
    }
  }

  /** Ends all connections, and their streams. */
  abort(): void {
    for (const connection of this.#all) connection.destroy(new ConnectError("the client is closed", Code.Canceled));
  }

  #add(): Connection {
    const connection: Connection = new Connection(this.#connect(), this.keepalive, {
      explain: (error, asked) => (this.#proven ? outage(error) : this.#explain(error, asked)),
      onMade: () => (this.#proven = true),
      onIdle: () => [...this.#all].some((other) => other !== connection && other.hasRoom),
      onOver: () => this.#all.delete(connection),
    });
    this.#all.add(connection);
    return connection;
  }

  #connect(): ClientHttp2Session {
    const { path } = this.address;
    const { tls } = this;
    const options: ClientSessionOptions | SecureClientSessionOptions = {
      ...tls,
      // By default Node takes no new stream once the others have 10 MB under way; our windows bound that already.
      maxSessionMemory: Number.MAX_SAFE_INTEGER,
      // By default Node refuses metadata beyond 64 KiB as if the server had, for now; it shall say so itself.
      maxSendHeaderBlockLength: MAX_METADATA,
      ...(path === undefined ? {} : { createConnection: () => connectTo(path, tls) }),
    };
    try {
      return connect(this.authority, options);
    } catch (error) {
      throw new Mistake(`the option \`tls\` cannot be used: ${messageOf(error)}`, { cause: error });
    }
  }

  /** Says why a connection could not be made: a mistake, if it is not the network's doing. */
  async #explain(error: Error | undefined, askedForCertificate: boolean): Promise<Error> {
    const where = this.address.path ?? this.address.authority;
    const { cert, pfx, secureContext } = this.tls ?? {};
    if (askedForCertificate && (cert ?? pfx ?? secureContext) === undefined) {
      // The server has said so or, as gRPC's own, has ended the connection without a word.
      return new Mistake(`${where} asks for a client's certificate: give the option \`tls\` a \`cert\` and a \`key\``);
    }
    if (error === undefined) {
      // So do a TLS port that is spoken to in plain text, and a proxy that has no server.
      const isTls = this.tls === undefined && (await speaksTls(this.address));
      return isTls
        ? new Mistake(`${where} speaks TLS: give the client the option \`tls\`, {} for the defaults`)
        : outage();
    }
    const { code = "" } = error as NodeJS.ErrnoException;
    if (code === "ERR_SSL_WRONG_VERSION_NUMBER") {
      return new Mistake(`${where} speaks no TLS: leave the option \`tls\` out, or name the server's TLS port`);
    }
    if (code === "ERR_HTTP2_ERROR" || code === "ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL") {
      return new Mistake(`${where} speaks no HTTP/2, so it is no port of gRPC: ${messageOf(error)}`);
    }
    return isOutage(error) ? outage(error) : new Mistake(`no connection to ${where}: ${messageOf(error)}`);
  }
}

/** What a connection asks of, and tells, the others. */
interface Ties {
  /** Why it could not be made; without an error the peer has ended it, perhaps after it asked for our certificate. */
  readonly explain: (error: Error | undefined, askedForCertificate: boolean) => Error | Promise<Error>;
  readonly onMade: () => void;
  /** It carries nothing; returns whether to end it. */
  readonly onIdle: () => boolean;
  readonly onOver: () => void;
}

class Connection {
  /** Resolves when streams can be started; rejects with what is amiss. */
  readonly made: Promise<void>;
  connecting = true;
  #askedForCertificate = false;
  #streams = 0;
  #heardAt = performance.now();
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly session: ClientHttp2Session,
    private readonly keepalive: Keepalive,
    private readonly ties: Ties,
  ) {
    let failure: Error | undefined;
    session.on("error", (error: Error) => (failure ??= error)); // for as long as it lives: one that nobody hears ends the process
    session.on("goaway", (_code, _last, data?: NodeJS.ArrayBufferView) => {
      // Of gRPC's proposal A8: a client that asks more often than its server likes asks half as often.
      if (data !== undefined && Buffer.from(data.buffer, data.byteOffset, data.byteLength).includes("too_many_pings"))
        keepalive.intervalMs *= 2;
    });
    session.once("connect", (_session, socket) => {
      if (!(socket instanceof TLSSocket)) return;
      // A server that asks says which signatures it takes.
      this.#askedForCertificate = socket.getSharedSigalgs().length > 0;
      // Of TLS 1.3 the refusal comes after the handshake, and Node leaves such a socket open.
      socket.once("error", () => socket.destroy());
    });
    this.made = new Promise((resolve, reject) => {
      // The settings, since they say how many streams it takes; gRPC's libraries wait for them as well.
      session.once("remoteSettings", () => {
        this.connecting = false;
        ties.onMade();
        session.unref();
        resolve();
      });
      session.once("close", () => {
        clearTimeout(this.#timer);
        void (async () => {
          if (this.connecting)
            reject(failure instanceof ConnectError ? failure : await ties.explain(failure, this.#askedForCertificate));
          ties.onOver();
        })();
      });
    });
    this.made.catch(() => undefined); // there may be nobody left who waits
  }

  /** Whether a stream can be started at once. A first one always: a peer that takes none is left to say so. */
  get hasRoom(): boolean {
    const { closed, destroyed, remoteSettings } = this.session;
    const most = remoteSettings.maxConcurrentStreams ?? Infinity;
    return !this.connecting && !closed && !destroyed && this.#streams < Math.max(most, 1);
  }

  request(headers: OutgoingHttpHeaders, options: object): ClientHttp2Stream {
    let stream: ClientHttp2Stream;
    try {
      stream = this.session.request(headers, options);
    } catch (error) {
      throw new Mistake(`Node.js refuses the request: ${messageOf(error)}`, { cause: error });
    }
    this.#streams += 1;
    if (this.#streams === 1) {
      this.session.ref(); // only what carries a stream keeps the process
      this.#watch(this.#heardAt + this.keepalive.intervalMs - performance.now());
    }
    stream.once("close", () => {
      this.#streams -= 1;
      if (this.#streams === 0) this.#onIdle();
    });
    return stream;
  }

  heard(stream: ClientHttp2Stream): void {
    if (stream.session === this.session) this.#heardAt = performance.now();
  }

  destroy(error: ConnectError): void {
    this.session.destroy(error, constants.NGHTTP2_CANCEL);
  }

  #onIdle(): void {
    clearTimeout(this.#timer);
    if (this.ties.onIdle()) this.session.close();
    this.session.unref();
  }

  /** Asks, after `ms`, whether the peer is there, unless something has been heard meanwhile. */
  #watch(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const left = this.#heardAt + this.keepalive.intervalMs - performance.now();
      if (left > 0) this.#watch(left);
      else this.#ask();
    }, ms).unref();
  }

  #ask(): void {
    if (this.session.destroyed) return;
    const { timeoutMs, intervalMs } = this.keepalive;
    this.#timer = setTimeout(() => {
      this.destroy(
        new ConnectError(`the server has not answered a ping for ${String(timeoutMs)} ms`, Code.Unavailable),
      );
    }, timeoutMs).unref();
    this.session.ping((error: Error | null) => {
      if (error !== null) return; // it is over
      this.#heardAt = performance.now();
      if (this.#streams > 0) this.#watch(intervalMs);
    });
  }
}

function connectTo(path: string, tls: SecureClientSessionOptions | undefined): Socket {
  return tls === undefined ? connectTcp(path) : connectTls({ ...tls, path, ALPNProtocols: ["h2"] });
}

/** Tells whether a port answers a TLS handshake. */
async function speaksTls({ authority, path }: Address): Promise<boolean> {
  const { hostname, port } = new URL(`https://${authority}`);
  const where = path === undefined ? { host: hostname.replace(/^\[|\]$/g, ""), port: Number(port || 443) } : { path };
  const socket = connectTls({ ...where, rejectUnauthorized: false }); // which is sent nothing
  try {
    return await new Promise<boolean>((resolve) => {
      socket.once("secureConnect", () => {
        resolve(true);
      });
      const onFailure = () => {
        resolve(false);
      };
      socket.once("error", onFailure).once("close", onFailure).setTimeout(PROBE_MS, onFailure);
    });
  } finally {
    socket.on("error", () => undefined).destroy();
  }
}

/** Tells whether the system or the network has failed; whatever else fails, it is what was said that is wrong. */
function isOutage(error: Error): boolean {
  const { code = "", syscall } = error as NodeJS.ErrnoException;
  return syscall !== undefined || code in system.errno || code === "ERR_HTTP2_SESSION_ERROR";
}

function outage(error?: Error): ConnectError {
  const why = error === undefined ? "the server ended the connection before it had said anything" : messageOf(error);
  return new ConnectError(why, Code.Unavailable, undefined, undefined, error);
}

function messageOf(error: unknown): string {
  // Of a name with several addresses.
  if (error instanceof AggregateError && error.message === "") return messageOf(error.errors[0]);
  return error instanceof Error ? error.message.trim() : String(error);
}
