/**
 * A server that answers what a test tells it to, right or wrong: one script for each call, over HTTP/2 and real sockets.
 *
 *     await using fake = await FakeServer.start(
 *       async (call) => {
 *         await call.read();                          // one AttachRequest; undefined once there will be no more
 *         call.write({ control: opened() });          // one AttachResponse
 *         call.refuse("TAKEN_OVER", "NEVER", 10);     // a status with an ErrorInfo
 *       },                                            // OK where a script just returns
 *     );
 */
import { once } from "node:events";
import {
  constants,
  createServer,
  type Http2Server,
  type Http2Session,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo } from "node:net";

import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { durationFromMs, DurationSchema, type Duration } from "@bufbuild/protobuf/wkt";

import { AttachRequestSchema, AttachResponseSchema, CloseReason, type AttachRequest } from "../src/v1.js";

export type Response = MessageInitShape<typeof AttachResponseSchema>;
export type Script = (call: FakeCall) => Promise<void> | void;

/** What a fake grants. */
interface Limits {
  eventWindow?: { messages: number; bytes: number };
  commandWindow?: { messages: number; bytes: number };
  maxMessageBytes?: number;
  heartbeatInterval?: Duration;
}

const LIMITS: Limits = {
  eventWindow: { messages: 1024, bytes: 1 << 20 },
  commandWindow: { messages: 1024, bytes: 1 << 20 },
  maxMessageBytes: 4_000_000,
  heartbeatInterval: durationFromMs(25_000),
};

export function opened(limits: Limits = {}): NonNullable<Response["control"]> {
  return {
    case: "opened",
    value: { sessionId: "s-1", resumeToken: "token", limits: { ...LIMITS, ...limits } },
  };
}

export function resumed(received = 0, limits: Limits = {}): NonNullable<Response["control"]> {
  return { case: "resumed", value: { received: BigInt(received), limits: { ...LIMITS, ...limits } } };
}

/** One Attach call, seen from the server. */
export class FakeCall {
  /** What has been read. */
  readonly requests: AttachRequest[] = [];
  /** Resolves with the code of the RST_STREAM, 0 where there was none. */
  readonly over: Promise<number>;
  readonly #arrived: AttachRequest[] = [];
  #data = Buffer.alloc(0);
  #ended = false;
  #notify: (() => void) | undefined;

  constructor(
    private readonly stream: ServerHttp2Stream,
    readonly headers: IncomingHttpHeaders,
  ) {
    this.over = new Promise((resolve) => {
      stream.on("close", () => {
        this.#end();
        resolve(stream.rstCode);
      });
    });
    stream.on("error", () => undefined); // the client may break it
    stream.on("end", () => {
      this.#end();
    });
    stream.on("data", (chunk: Buffer) => {
      this.#data = Buffer.concat([this.#data, chunk]);
      while (this.#data.length >= 5 && this.#data.length >= 5 + this.#data.readUInt32BE(1)) {
        const end = 5 + this.#data.readUInt32BE(1);
        this.#arrived.push(fromBinary(AttachRequestSchema, this.#data.subarray(5, end)));
        this.#data = this.#data.subarray(end);
      }
      this.#notify?.();
    });
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => {
      stream.sendTrailers(this.#trailers);
    });
  }

  #trailers: Record<string, string> = { "grpc-status": "0" };

  #end(): void {
    this.#ended = true;
    this.#notify?.();
  }

  /** Returns the next request; undefined once there will be no more. */
  async read(): Promise<AttachRequest | undefined> {
    while (this.#arrived.length === 0 && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#notify = resolve;
      });
    }
    const request = this.#arrived.shift();
    if (request !== undefined) this.requests.push(request);
    return request;
  }

  /** Returns the first request that meets the condition; fails where none does. */
  async readUntil(condition: (request: AttachRequest) => boolean): Promise<AttachRequest> {
    for (let request = await this.read(); request !== undefined; request = await this.read()) {
      if (condition(request)) return request;
    }
    throw new Error(`the client has no more to say, after ${String(this.requests.length)} requests`);
  }

  /** Reads until the client has ended the call, or its half of it. */
  async readAll(): Promise<void> {
    while ((await this.read()) !== undefined);
  }

  /** Reads the first request, and answers it as one should. */
  async attach(limits: Limits = {}, received = 0): Promise<AttachRequest> {
    const request = await this.read();
    if (request === undefined) throw new Error("there is no first request");
    this.write({ control: request.control.case === "open" ? opened(limits) : resumed(received, limits) });
    return request;
  }

  write(response: Response): void {
    this.writeBytes(toBinary(AttachResponseSchema, create(AttachResponseSchema, response)));
  }

  writeBytes(bytes: Uint8Array): void {
    const head = Buffer.alloc(5);
    head.writeUInt32BE(bytes.length, 1);
    this.writeRaw(Buffer.concat([head, bytes]));
  }

  /** Writes bytes that need not be a whole message. */
  writeRaw(bytes: Uint8Array): void {
    this.stream.write(bytes);
  }

  /** Writes commands from `first` on, whose specs are their numbers. */
  writeCommands(first: number, count: number): void {
    const commands = Array.from({ length: count }, (_, index) => ({
      command: "c",
      taskId: "main-1",
      payload: { case: "json" as const, value: String(first + index) },
    }));
    this.write({ commands, firstSequence: BigInt(first) });
  }

  writeClosed(sequence: number, reason = CloseReason.COMPLETED): void {
    this.write({ control: { case: "closed", value: { reason, sequence: BigInt(sequence) } } });
  }

  /** Ends the call with a bare status, as a proxy does. */
  end(code: number, message = "says the fake"): void {
    this.#trailers = { "grpc-status": String(code), "grpc-message": message };
    this.stream.end();
  }

  /** Ends the call with an ErrorInfo; with a RetryInfo where there is a `delayMs`. */
  refuse(reason: string, retry: string | undefined, code: number, { domain, delayMs, metadata }: Details = {}): void {
    this.end(code, `the fake says ${reason}`);
    const status = statusOf(reason, retry, code, { domain, delayMs, metadata });
    this.#trailers["grpc-status-details-bin"] = Buffer.from(status).toString("base64");
  }

  /** Writes such an error as the control part `failed`; the status is still to come. */
  fail(reason: string, retry: string, code: number, details: Details = {}): void {
    this.write({ control: { case: "failed", value: { status: statusOf(reason, retry, code, details) } } });
  }

  /** Breaks the stream. */
  reset(): void {
    this.stream.close(constants.NGHTTP2_INTERNAL_ERROR);
  }

  /** Breaks the connection. */
  cut(): void {
    this.stream.session?.destroy();
  }

  /** Ends the call, unless that has been done. */
  finish(): void {
    if (!this.stream.writableEnded && !this.stream.destroyed) this.stream.end();
  }
}

/** Runs one script for each call; a call for which there is none is refused for good. */
export class FakeServer implements AsyncDisposable {
  readonly calls: FakeCall[] = [];
  readonly #server: Http2Server;
  readonly #connections = new Set<Http2Session>();
  readonly #running: Promise<void>[] = [];
  readonly #errors: unknown[] = [];

  private constructor(scripts: readonly Script[]) {
    this.#server = createServer();
    this.#server.on("session", (session) => {
      this.#connections.add(session);
      session.on("error", () => undefined);
    });
    this.#server.on("stream", (stream, headers) => {
      const call = new FakeCall(stream, headers);
      const script = scripts[this.calls.length] ?? unexpected;
      this.calls.push(call);
      this.#running.push(
        Promise.resolve(script(call)).then(
          () => {
            call.finish();
          },
          (error: unknown) => {
            console.error(error); // what the client makes of it may hide it
            this.#errors.push(error);
            call.reset();
          },
        ),
      );
    });
  }

  static async start(...scripts: Script[]): Promise<FakeServer> {
    const fake = new FakeServer(scripts);
    fake.#server.listen(0, "127.0.0.1");
    await once(fake.#server, "listening");
    return fake;
  }

  get address(): string {
    return `127.0.0.1:${String((this.#server.address() as AddressInfo).port)}`;
  }

  /** Closes it; throws what went wrong in its scripts. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.#connections) connection.destroy();
    this.#server.close();
    await Promise.all(this.#running);
    if (this.#errors.length > 0) throw this.#errors[0];
  }
}

function unexpected(call: FakeCall): void {
  call.refuse("UNEXPECTED_CALL", "NEVER", 9);
}

function writeAny(status: BinaryWriter, type: string, value: Uint8Array): void {
  status.tag(3, WireType.LengthDelimited).fork();
  status.tag(1, WireType.LengthDelimited).string(`type.googleapis.com/${type}`);
  status.tag(2, WireType.LengthDelimited).bytes(value).join();
}

interface Details {
  domain?: string | undefined;
  delayMs?: number | undefined;
  metadata?: Readonly<Record<string, string>> | undefined;
}

/** An encoded google.rpc.Status with an ErrorInfo; with a RetryInfo where there is a `delayMs`. */
function statusOf(
  reason: string,
  retry: string | undefined,
  code: number,
  { domain = "session_service", delayMs, metadata = {} }: Details,
): Uint8Array {
  const info = new BinaryWriter().tag(1, WireType.LengthDelimited).string(reason);
  info.tag(2, WireType.LengthDelimited).string(domain);
  for (const [key, value] of Object.entries(retry === undefined ? metadata : { ...metadata, retry })) {
    info.tag(3, WireType.LengthDelimited).fork();
    info.tag(1, WireType.LengthDelimited).string(key).tag(2, WireType.LengthDelimited).string(value).join();
  }
  const status = new BinaryWriter().tag(1, WireType.Varint).int32(code);
  status.tag(2, WireType.LengthDelimited).string(`the fake says ${reason}`);
  writeAny(status, "google.rpc.ErrorInfo", info.finish());
  if (delayMs !== undefined) {
    const delay = toBinary(DurationSchema, durationFromMs(delayMs));
    writeAny(status, "google.rpc.RetryInfo", new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(delay).finish());
  }
  return status.finish();
}
