/** JavaScript values to the payloads of events and commands, and back (protocol F4, F7). */
import {
  create,
  isMessage,
  toBinary,
  type DescMessage,
  type JsonObject,
  type Message,
  type Registry,
} from "@bufbuild/protobuf";
import { anyPack, anyUnpack, AnySchema, type Any, type Value } from "@bufbuild/protobuf/wkt";

import { PayloadError } from "./errors.js";
import { EventSchema, type Command as CommandMessage, type Event } from "./gen/session_service/v1/session_pb.js";
import { readJson, VALUE, writeJson } from "./json.js";

/**
 * Returns an event, and its size in bytes. It shares nothing with `data`, which may change afterwards.
 *
 * @param data a JSON value, bytes or a protobuf message; undefined is JSON null.
 * @throws {@link PayloadError} `data` cannot be carried exactly.
 */
export function encodeEvent(
  event: string,
  taskId: string,
  data: unknown,
  registry?: Registry,
): { item: Event; size: number } {
  checkText(event, "event");
  checkText(taskId, "taskId");
  const item = create(EventSchema, { event, taskId, payload: encode(data, registry) });
  return { item, size: toBinary(EventSchema, item).length };
}

/**
 * Returns parameters as a `google.protobuf.Struct` carries them.
 *
 * @throws {@link PayloadError} they cannot be carried exactly.
 */
export function encodeParams(params: Readonly<Record<string, unknown>>): JsonObject {
  return JSON.parse(writeJson(params, "params", VALUE)) as JsonObject;
}

/**
 * Returns what an app sent as a command's spec.
 *
 * @throws {@link PayloadError} it is no JSON, cannot be kept exactly, or is no message of the type that it names.
 */
export function decodeSpec(command: CommandMessage, registry?: Registry): unknown {
  const { payload } = command;
  switch (payload.case) {
    case undefined:
      return null;
    case "json":
      return readJson(payload.value, "json");
    case "spec":
      return readValue(payload.value, "spec", VALUE.maxDepth);
    case "blob":
      return payload.value;
    case "message":
      return unpack(payload.value, registry);
  }
}

function encode(data: unknown, registry: Registry | undefined): Event["payload"] {
  if (data instanceof Uint8Array) return { case: "blob", value: Uint8Array.from(data) };
  if (isMessage(data)) return { case: "message", value: pack(data, registry) };
  return { case: "json", value: writeJson(data === undefined ? null : data, "data") };
}

function pack(message: Message, registry: Registry | undefined): Any {
  if (isMessage(message, AnySchema)) {
    return create(AnySchema, { typeUrl: message.typeUrl, value: Uint8Array.from(message.value) });
  }
  const schema: DescMessage | undefined = registry?.getMessage(message.$typeName);
  if (schema === undefined) {
    throw new PayloadError(
      "data",
      `${message.$typeName} is not in the client's registry: add it, or send anyPack(...)`,
    );
  }
  try {
    return anyPack(schema, message);
  } catch (error) {
    throw new PayloadError("data", error instanceof Error ? error.message : String(error));
  }
}

function unpack(packed: Any, registry: Registry | undefined): Message {
  if (registry === undefined) return packed;
  try {
    return anyUnpack(packed, registry) ?? packed;
  } catch {
    throw new PayloadError("message", `this is no ${packed.typeUrl}`);
  }
}

function readValue(value: Value, path: string, depth: number): unknown {
  const { kind } = value;
  switch (kind.case) {
    case undefined:
    case "nullValue":
      return null;
    case "numberValue":
      if (!Number.isFinite(kind.value)) throw new PayloadError(path, `${String(kind.value)} is no JSON number`);
      return kind.value;
    case "stringValue":
    case "boolValue":
      return kind.value;
    case "listValue":
      checkDepth(path, depth);
      return kind.value.values.map((item, index) => readValue(item, `${path}[${String(index)}]`, depth - 1));
    case "structValue":
      checkDepth(path, depth);
      return Object.fromEntries(
        Object.entries(kind.value.fields).map(([key, item]) => [key, readValue(item, `${path}.${key}`, depth - 1)]),
      );
  }
}

function checkDepth(path: string, depth: number): void {
  if (depth === 0) throw new PayloadError(path, `nested deeper than ${String(VALUE.maxDepth)} levels`);
}

function checkText(text: string, path: string): void {
  if (typeof text !== "string") throw new PayloadError(path, "this is no text");
  if (!text.isWellFormed()) throw new PayloadError(path, "the text holds a lone surrogate, which UTF-8 cannot carry");
}
