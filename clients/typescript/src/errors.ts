/**
 * What can go wrong for a client.
 *
 *     SessionClientError
 *     ├── PayloadError         a value that cannot be carried exactly; the session goes on
 *     ├── SessionRefused       the server said no, and says why
 *     │   └── TakenOver        another client has the session now
 *     ├── SessionLost          it cannot be resumed: gone, or not reached in time
 *     │   └── PoisonedEventError   one of its events never gets through
 *     └── SessionEnded         a call on a session that is closed, or detached
 *
 * An aborted call rejects with the `reason` of its signal instead.
 */

/** The name of a gRPC status. */
export type StatusName =
  | "OK"
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED";

/** The root of everything that this package throws on purpose. */
export class SessionClientError extends Error {
  override readonly name: string = "SessionClientError";
}

/** A value cannot be carried exactly, or is too large. Nothing was sent; the session goes on. */
export class PayloadError extends SessionClientError {
  override readonly name = "PayloadError";

  constructor(
    /** Where in the value the fault is, such as `data.items[3]`. */
    readonly path: string,
    why: string,
  ) {
    super(`${path}: ${why}`);
  }
}

/** The server refused, or ended, the stream, and trying again would not help. */
export class SessionRefused extends SessionClientError {
  override readonly name: string = "SessionRefused";

  constructor(
    message: string,
    /** The status. */
    readonly code: StatusName,
    /** That of the ErrorInfo, such as `APP_NOT_FOUND`; empty where the server, or a proxy, sent none. */
    readonly reason: string,
    /** The ErrorInfo's metadata. */
    readonly details: Readonly<Record<string, string>>,
    /** The last event known to have been taken over by the session; later ones are of unknown outcome. */
    readonly takenOver: number,
  ) {
    super(`${reason || code}: ${message}`);
  }
}

/** Another client has resumed the session; its events must come from there now (protocol A3). */
export class TakenOver extends SessionRefused {
  override readonly name = "TakenOver";
}

/** The session cannot be resumed. Opening again would run the app a second time, so that is the caller's choice. */
export class SessionLost extends SessionClientError {
  override readonly name: string = "SessionLost";

  constructor(
    message: string,
    /** The last event known to have been taken over by the session; later ones are of unknown outcome. */
    readonly takenOver: number,
    options?: ErrorOptions,
  ) {
    const known = takenOver > 0 ? `; events up to ${String(takenOver)} are known to have been taken over` : "";
    super(message + known, options);
  }
}

/**
 * Streams break whenever this event is written: something between here and the server does not let it through, such as
 * a proxy that limits the size of a request (protocol D7). The session is still there, until its resume window is over.
 */
export class PoisonedEventError extends SessionLost {
  override readonly name = "PoisonedEventError";

  constructor(
    /** Which event it is; 1 is the session's first. */
    readonly sequence: number,
    /** Its size in bytes, encoded. */
    readonly size: number,
    takenOver: number,
    why: string,
  ) {
    super(`event ${String(sequence)}, of ${String(size)} bytes, never gets through: ${why}`, takenOver);
  }
}

/** The session has ended, or this client has closed or detached it: nothing can be sent any more. */
export class SessionEnded extends SessionClientError {
  override readonly name = "SessionEnded";
}
