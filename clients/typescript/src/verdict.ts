/** What the end of a stream means for its session. */
import type { Conversation } from "./conversation.js";
import {
  PoisonedEventError,
  SessionLost,
  SessionRefused,
  TakenOver,
  type SessionClientError,
  type StatusName,
} from "./errors.js";
import type { Decision } from "./retry.js";
import { receivedBy, type StreamEnd } from "./status.js";

/** Without an ErrorInfo these are for good (protocol D7). */
const FINAL: ReadonlySet<StatusName> = new Set<StatusName>([
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "PERMISSION_DENIED",
  "FAILED_PRECONDITION",
  "UNIMPLEMENTED",
]);

/**
 * Returns what ends the session for this client; undefined to try again (protocol D7).
 *
 * @param exhausted what could be tried has been tried.
 * @param attached it has been attached before.
 */
export function verdict(
  conversation: Conversation,
  end: StreamEnd,
  decision: Decision,
  { exhausted, attached }: { exhausted: boolean; attached: boolean },
): SessionClientError | undefined {
  const { code, message, reason, retry, details } = end;
  const takenOver = Math.max(conversation.takenOver, receivedBy(end));
  if (end.mistake !== undefined) return new SessionLost(message, takenOver, { cause: end.mistake });
  // Later on it is one of gRPC's own limits, such as that of metadata, and another try may pass it.
  const tooMuch = code === "RESOURCE_EXHAUSTED" && !conversation.opened;
  const final = retry === "" && (FINAL.has(code) || tooMuch);
  if (exhausted || final || !["", "RESUME", "REOPEN"].includes(retry)) {
    const Refusal = reason === "TAKEN_OVER" ? TakenOver : SessionRefused;
    return new Refusal(message, code, reason, details, takenOver);
  }
  const refused = retry === "REOPEN" || (retry !== "" && code === "UNAUTHENTICATED");
  if (!conversation.resumable && (attached || !refused)) {
    // Whether an open without a request id has run the app is not known (protocol A6).
    return new SessionLost(`the stream of a plain session broke: ${code} ${message}`, takenOver);
  }
  if (retry === "REOPEN" && (conversation.opened || reason === "SESSION_NOT_FOUND")) {
    return new SessionLost(`${reason}: ${message}`, takenOver);
  }
  switch (decision.action) {
    case "retry":
      return undefined;
    case "lose": {
      const what = conversation.opened ? "not reached, or without progress," : "not opened, as far as is known,";
      return new SessionLost(
        `the session was ${what} within ${String(decision.limitMs)} ms: ${code} ${message}`,
        takenOver,
      );
    }
    case "poisoned": {
      const { acked, firstSize } = conversation.outbox;
      return new PoisonedEventError(acked + 1, firstSize, takenOver, `${code} ${message}`);
    }
  }
}
