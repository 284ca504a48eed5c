/** A client for session-service: it reconnects by itself, and every event and command arrives exactly once, in order. */
export { SessionClient, type ClientOptions, type OpenOptions } from "./client.js";
export type { Closed, CloseReason, Command, Position } from "./conversation.js";
export type { Credentials } from "./credentials.js";
export type { Window } from "./delivery/window.js";
export {
  PayloadError,
  PoisonedEventError,
  SessionClientError,
  SessionEnded,
  SessionLost,
  SessionRefused,
  TakenOver,
  type StatusName,
} from "./errors.js";
export type { RetryPolicy } from "./retry.js";
export type { Abortable, Attachment, Session } from "./session.js";
