/** How a call ended, in the terms of the protocol's table of errors. */
import { fromBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { durationMs, DurationSchema } from "@bufbuild/protobuf/wkt";
import { Code, type ConnectError } from "@connectrpc/connect";

import { Mistake } from "./connections.js";

import type { StatusName } from "./errors.js";

const DOMAIN = "session_service";

const NAMES: Readonly<Record<Code, StatusName>> = {
  [Code.Canceled]: "CANCELLED",
  [Code.Unknown]: "UNKNOWN",
  [Code.InvalidArgument]: "INVALID_ARGUMENT",
  [Code.DeadlineExceeded]: "DEADLINE_EXCEEDED",
  [Code.NotFound]: "NOT_FOUND",
  [Code.AlreadyExists]: "ALREADY_EXISTS",
  [Code.PermissionDenied]: "PERMISSION_DENIED",
  [Code.ResourceExhausted]: "RESOURCE_EXHAUSTED",
  [Code.FailedPrecondition]: "FAILED_PRECONDITION",
  [Code.Aborted]: "ABORTED",
  [Code.OutOfRange]: "OUT_OF_RANGE",
  [Code.Unimplemented]: "UNIMPLEMENTED",
  [Code.Internal]: "INTERNAL",
  [Code.Unavailable]: "UNAVAILABLE",
  [Code.DataLoss]: "DATA_LOSS",
  [Code.Unauthenticated]: "UNAUTHENTICATED",
};

/** How a stream ended before its session did. */
export interface StreamEnd {
  readonly code: StatusName;
  /** The status' text, or what went wrong here. */
  readonly message: string;
  /** That of the ErrorInfo, if there was one of our domain. */
  readonly reason: string;
  /** What it says to do; empty without one. */
  readonly retry: string;
  /** Its metadata. */
  readonly details: Readonly<Record<string, string>>;
  /** How long the server asks to wait. */
  readonly retryDelayMs: number;
  /** The sequence at which a response could not be taken; twice at the same one is for good (protocol D7). */
  readonly defectAt?: number;
  /** Nothing was sent, and nothing would be by the next try. */
  readonly mistake?: Mistake;
}

/** A `StreamEnd` that no server told. */
export function localEnd(code: StatusName, message: string, defectAt?: number): StreamEnd {
  const end = { code, message, reason: "", retry: "", details: {}, retryDelayMs: 0 };
  return defectAt === undefined ? end : { ...end, defectAt };
}

/** Reads the status of a call, and what is in its details. */
export function statusOf(error: ConnectError): StreamEnd {
  if (error.cause instanceof Mistake) return { ...localEnd("UNAVAILABLE", error.cause.message), mistake: error.cause };
  // Others are to be sent.
  return endOf(
    NAMES[error.code],
    error.rawMessage,
    error.details.filter((detail) => "type" in detail),
  );
}

/** Reads the `google.rpc.Status` of a `Failed`; undefined where it is none. */
export function statusIn(bytes: Uint8Array): StreamEnd | undefined {
  return readOrNothing(bytes, readStatus);
}

/** A google.protobuf.Any, by the name of its type. */
interface Detail {
  readonly type: string;
  readonly value: Uint8Array;
}

function endOf(code: StatusName, message: string, details: readonly Detail[]): StreamEnd {
  let end = localEnd(code, message);
  for (const detail of details) {
    if (detail.type === "google.rpc.ErrorInfo") {
      const info = readOrNothing(detail.value, readErrorInfo);
      if (info?.domain !== DOMAIN) continue;
      end = { ...end, reason: info.reason, retry: info.metadata["retry"] || "NEVER", details: info.metadata };
    } else if (detail.type === "google.rpc.RetryInfo") {
      end = { ...end, retryDelayMs: readOrNothing(detail.value, readRetryInfo) ?? 0 };
    }
  }
  return end;
}

/** The last event that the server says it took over; 0 where it says nothing. */
export function receivedBy(end: StreamEnd): number {
  const text = end.details["received"] ?? "";
  return /^[0-9]{1,20}$/.test(text) ? Number(text) : 0;
}

/** Details come through proxies too: what does not decode says nothing. */
function readOrNothing<T>(bytes: Uint8Array, read: (bytes: Uint8Array) => T): T | undefined {
  try {
    return read(bytes);
  } catch {
    return undefined;
  }
}

interface ErrorInfo {
  reason: string;
  domain: string;
  metadata: Record<string, string>;
}

// By hand, since nothing on npm has google.rpc's messages for protobuf-es 2: they are smaller than their generated code.
function readStatus(bytes: Uint8Array): StreamEnd | undefined {
  let code = 0;
  let message = "";
  const details: Detail[] = [];
  readFields(bytes, {
    1: (reader) => (code = reader.int32()),
    2: (reader) => (message = reader.string()),
    3: (reader) => {
      let type = "";
      let value: Uint8Array = new Uint8Array();
      readFields(reader.bytes(), { 1: (any) => (type = any.string()), 2: (any) => (value = any.bytes()) });
      details.push({ type: type.slice(type.lastIndexOf("/") + 1), value });
    },
  });
  const name = (NAMES as Readonly<Record<number, StatusName | undefined>>)[code];
  return name === undefined ? undefined : endOf(name, message, details);
}

function readErrorInfo(bytes: Uint8Array): ErrorInfo {
  const info: ErrorInfo = { reason: "", domain: "", metadata: {} };
  readFields(bytes, {
    1: (reader) => (info.reason = reader.string()),
    2: (reader) => (info.domain = reader.string()),
    3: (reader) => {
      let key = "";
      let value = "";
      readFields(reader.bytes(), { 1: (entry) => (key = entry.string()), 2: (entry) => (value = entry.string()) });
      info.metadata[key] = value;
    },
  });
  return info;
}

function readRetryInfo(bytes: Uint8Array): number {
  let delay = 0;
  readFields(bytes, { 1: (reader) => (delay = durationMs(fromBinary(DurationSchema, reader.bytes()))) });
  return Math.max(0, delay);
}

function readFields(bytes: Uint8Array, fields: Readonly<Record<number, (reader: BinaryReader) => void>>): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    const read = fields[number];
    if (read === undefined) reader.skip(type, number);
    else read(reader);
  }
}
