/**
 * The driver of this client for the conformance kit: instructions from stdin, observations to stdout, each behind its
 * length; see protos/session_service/conformance/v1/conformance.proto.
 */
import { once } from "node:events";

import { create, createRegistry, fromBinary, isMessage, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import {
  anyPack,
  AnySchema,
  anyUnpack,
  durationMs,
  file_google_protobuf_duration,
  file_google_protobuf_empty,
  file_google_protobuf_struct,
  file_google_protobuf_timestamp,
  file_google_protobuf_wrappers,
  type Any,
  type Duration,
} from "@bufbuild/protobuf/wkt";

import {
  ErrorKind,
  InstructionSchema,
  ObservationSchema,
  type CloseSession,
  type Connect,
  type ErrorSchema,
  type Instruction,
  type Observation,
  type OpenSession,
  type Position as SavedPosition,
  type ReceivedCommandSchema,
  type ReceivedSchema,
  type Receive,
  type Send,
} from "../gen/session_service/conformance/v1/conformance_pb.js";
import {
  PayloadError,
  PoisonedEventError,
  SessionClient,
  SessionClientError,
  SessionEnded,
  SessionLost,
  SessionRefused,
  TakenOver,
  type Command,
  type Position,
  type Session,
} from "../index.js";
import { readJson, writeJson, type Format } from "../json.js";

type Told = NonNullable<MessageInitShape<typeof ObservationSchema>["observation"]>;
type ReceivedInit = MessageInitShape<typeof ReceivedSchema> & {
  commands: MessageInitShape<typeof ReceivedCommandSchema>[];
};

/** Whatever a case wants to see refused can be read. */
const ANYTHING: Format = { maxDepth: Infinity, minInteger: -(10n ** 100n), maxInteger: 10n ** 100n, limit: "anything" };

/** The types that are handed to the library, and come from it, as messages; of any other it gets the Any. */
const REGISTRY = createRegistry(
  file_google_protobuf_duration,
  file_google_protobuf_empty,
  file_google_protobuf_struct,
  file_google_protobuf_timestamp,
  file_google_protobuf_wrappers,
);

class Driver {
  #client: SessionClient | undefined;
  #session: Session | undefined;
  #opening: { readonly session: Promise<Session>; readonly abort: AbortController } | undefined;

  async carryOut({ instruction }: Instruction): Promise<Observation> {
    let observation: Told;
    try {
      observation = await this.#carryOut(instruction);
    } catch (error) {
      observation = { case: "error", value: errorOf(error) };
    }
    return create(ObservationSchema, { observation });
  }

  /** Leaves everything as it is. */
  async leave(): Promise<void> {
    await this.#client?.close();
  }

  async #carryOut(instruction: Instruction["instruction"]): Promise<Told> {
    switch (instruction.case) {
      case "connect":
        return this.#onConnect(instruction.value);
      case "open":
        return this.#onOpen(instruction.value);
      case "resume":
        return this.#onResume(instruction.value.position);
      case "send":
        return this.#onSend(instruction.value);
      case "receive":
        return this.#onReceive(instruction.value);
      case "close":
        return this.#onClose(instruction.value);
      case "detach":
        return saved(await this.#open.detach());
      case "savePosition":
        return saved(this.#open.position);
      case "giveUp":
        return this.#onGiveUp();
      case undefined:
        return { case: "unsupported", value: { why: "an instruction that this driver does not know" } };
    }
  }

  #onConnect(connect: Connect): Told {
    const { tokens } = connect;
    const credentials = () => ({ authorization: `Bearer ${(tokens.length > 1 ? tokens.shift() : tokens[0]) ?? ""}` });
    const { commandWindowMessages, commandWindowBytes } = connect;
    this.#client = new SessionClient(connect.address, {
      ...(tokens.length > 0 ? { credentials } : {}),
      retry: {
        ...within("initialMs", connect.retryInitial),
        ...within("maximumMs", connect.retryMaximum),
        ...within("totalMs", connect.retryTotal),
        ...within("attachTimeoutMs", connect.attachTimeout),
      },
      registry: REGISTRY,
      commandWindow: { messages: commandWindowMessages || 1024, bytes: commandWindowBytes || 1 << 20 },
    });
    return { case: "done", value: {} };
  }

  async #onOpen({ app, params, plain, resumeWindow, requestId, inBackground }: OpenSession): Promise<Told> {
    const abort = new AbortController();
    const session = this.#connected.open(app, {
      params: params ?? {},
      plain,
      ...within("resumeWindowMs", resumeWindow),
      requestId,
      signal: abort.signal,
    });
    if (inBackground) {
      session.catch(() => undefined); // whoever gives it up is told
      this.#opening = { session, abort };
      return { case: "done", value: {} };
    }
    this.#session = await session;
    return opened(this.#session);
  }

  async #onGiveUp(): Promise<Told> {
    if (this.#opening === undefined) throw new Error("nothing is being opened in the background");
    const { session, abort } = this.#opening;
    abort.abort();
    try {
      await session;
    } catch (error) {
      if (error !== abort.signal.reason) throw error;
      return { case: "done", value: { cancelled: true } };
    }
    return { case: "done", value: {} };
  }

  async #onResume(position: SavedPosition | undefined): Promise<Told> {
    if (position === undefined) throw new Error("resume from where?");
    const [id, token] = JSON.parse(Buffer.from(position.saved).toString()) as [string, string];
    const { received, sent } = position;
    this.#session = await this.#connected.resume({ id, token, received: Number(received), sent: Number(sent) });
    return opened(this.#session);
  }

  async #onSend({ event, taskId, payload, count, cancelAfter }: Send): Promise<Told> {
    const data = valueOf(payload);
    const signal = signalAfter(cancelAfter);
    try {
      for (let sent = 0; sent < (count || 1); sent++) await this.#open.send(event, data, { taskId, signal });
    } catch (error) {
      if (signal === undefined || error !== signal.reason) throw error;
      return { case: "done", value: { cancelled: true } };
    }
    return { case: "done", value: {} };
  }

  async #onReceive({ count, cancelAfter }: Receive): Promise<Told> {
    const received: ReceivedInit = { commands: [] };
    const signal = signalAfter(cancelAfter);
    try {
      await this.#read(received, count, signal);
    } catch (error) {
      if (signal === undefined || error !== signal.reason) throw error;
      received.cancelled = true;
    }
    return { case: "received", value: received };
  }

  async #onClose({ reason, now }: CloseSession): Promise<Told> {
    const received: ReceivedInit = { commands: [] };
    try {
      await this.#open.close({ reason, now });
      await this.#read(received, 0, undefined);
    } catch (error) {
      if (!(error instanceof SessionClientError)) throw error;
      received.error = errorOf(error);
    }
    return { case: "received", value: received };
  }

  async #read(received: ReceivedInit, count: number, signal: AbortSignal | undefined): Promise<void> {
    try {
      for await (const command of this.#open.commands({ signal })) {
        received.commands.push(commandOf(command));
        if (received.commands.length === count) return;
      }
      if (this.#open.closed !== undefined) received.closed = this.#open.closed;
    } catch (error) {
      if (!(error instanceof SessionClientError)) throw error;
      received.error = errorOf(error);
    }
  }

  get #connected(): SessionClient {
    if (this.#client === undefined) throw new Error("there is no client yet: connect first");
    return this.#client;
  }

  get #open(): Session {
    if (this.#session === undefined) throw new Error("there is no session yet: open or resume one first");
    return this.#session;
  }
}

function within<Name extends string>(name: Name, duration: Duration | undefined): Partial<Record<Name, number>> {
  return duration === undefined ? {} : ({ [name]: durationMs(duration) } as Record<Name, number>);
}

function signalAfter(duration: Duration | undefined): AbortSignal | undefined {
  return duration === undefined ? undefined : AbortSignal.timeout(durationMs(duration));
}

function opened({ id, takenOver }: Session): Told {
  return { case: "opened", value: { sessionId: id, takenOver: BigInt(takenOver) } };
}

function saved({ id, token, received, sent }: Position): Told {
  const text = Buffer.from(JSON.stringify([id, token]));
  return { case: "position", value: { saved: text, received: BigInt(received), sent: BigInt(sent) } };
}

function valueOf({ case: kind, value }: Send["payload"]): unknown {
  if (kind === "json") return readAnything(value);
  return kind === "message" ? (anyUnpack(value, REGISTRY) ?? value) : value;
}

function commandOf({ command, taskId, spec }: Command): MessageInitShape<typeof ReceivedCommandSchema> {
  if (spec instanceof Uint8Array) return { command, taskId, payload: { case: "blob", value: spec } };
  if (isMessage(spec)) {
    const schema = REGISTRY.getMessage(spec.$typeName);
    const value = isMessage(spec, AnySchema) || schema === undefined ? (spec as Any) : anyPack(schema, spec);
    return { command, taskId, payload: { case: "message", value } };
  }
  return { command, taskId, payload: { case: "json", value: writeJson(spec, "spec") } };
}

function errorOf(error: unknown): MessageInitShape<typeof ErrorSchema> {
  const message = String(error);
  if (error instanceof PayloadError) return { kind: ErrorKind.PAYLOAD, message };
  if (error instanceof SessionRefused) {
    const kind = error instanceof TakenOver ? ErrorKind.TAKEN_OVER : ErrorKind.REFUSED;
    const { code, reason, takenOver } = error;
    return { kind, message, code, reason, takenOver: BigInt(takenOver) };
  }
  if (error instanceof PoisonedEventError) {
    const { sequence, size, takenOver } = error;
    return {
      kind: ErrorKind.POISONED,
      message,
      takenOver: BigInt(takenOver),
      sequence: BigInt(sequence),
      size: BigInt(size),
    };
  }
  if (error instanceof SessionLost) return { kind: ErrorKind.LOST, message, takenOver: BigInt(error.takenOver) };
  if (error instanceof SessionEnded) return { kind: ErrorKind.ENDED, message };
  return { kind: ErrorKind.OTHER, message };
}

/** Reads JSON and what is none, but which a program may hold: NaN, Infinity and -Infinity, as the runner writes them. */
function readAnything(text: string): unknown {
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|NaN|-?Infinity/g, (token) =>
    token.startsWith('"') ? token : `"\\u0000${token}"`,
  );
  return revive(readJson(marked, "json", ANYTHING));
}

function revive(value: unknown): unknown {
  if (typeof value === "string") return value.startsWith("\0") ? Number(value.slice(1)) : value;
  if (Array.isArray(value)) return value.map(revive);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, revive(item)]));
}

async function* instructions(): AsyncGenerator<Instruction> {
  let data = Buffer.alloc(0);
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    data = Buffer.concat([data, chunk]);
    while (data.length >= 4 && data.length >= 4 + data.readUInt32BE()) {
      const end = 4 + data.readUInt32BE();
      yield fromBinary(InstructionSchema, data.subarray(4, end));
      data = data.subarray(end);
    }
  }
}

const driver = new Driver();
for await (const instruction of instructions()) {
  const data = toBinary(ObservationSchema, await driver.carryOut(instruction));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  if (!process.stdout.write(Buffer.concat([length, data]))) await once(process.stdout, "drain");
}
await driver.leave();
