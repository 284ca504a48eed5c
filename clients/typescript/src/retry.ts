/** How a client comes back. */
export interface RetryPolicy {
  /** The most to wait before the first try; 200 by default. */
  readonly initialMs?: number;
  /** The most to wait before any later one; the bound doubles until there. 10,000 by default. */
  readonly maximumMs?: number;
  /** Without progress for so long the session counts as lost; 120,000 by default. */
  readonly totalMs?: number;
  /** What one try may take; 10,000 by default. */
  readonly attachTimeoutMs?: number;
}

export const DEFAULT_RETRY: Required<RetryPolicy> = {
  initialMs: 200,
  maximumMs: 10_000,
  totalMs: 120_000,
  attachTimeoutMs: 10_000,
};

/** A client repeats an open for so long, then the outcome is unknown (protocol A6). */
const REPEAT_OPEN_MS = 60_000;

/** A stream that lived for so long is progress, where the heartbeat interval is not shorter (protocol D7). */
const LIFE_MS = 25_000;

/** A break this soon after an event was written may be the event's doing. */
const SUSPICION_MS = 5_000;

/** Such breaks in a row after which the event is held back, to see whether the path breaks without it. */
const BREAKS_TO_HOLD = 3;

/** Such breaks in a row at which the client gives up. */
const BREAKS_TO_GIVE_UP = 5;

/** For how long an event is held back. */
const HOLD_MS = 5_000;

/** What to do about a broken stream. */
export type Decision =
  | { readonly action: "retry"; readonly delayMs: number }
  /** There was no progress for `limitMs`. */
  | { readonly action: "lose"; readonly limitMs: number }
  /** The first unacknowledged event never gets through. */
  | { readonly action: "poisoned" };

/**
 * Says when a session tries again, and when it gives up (protocol D7).
 *
 * It is told what happens to the session's streams, and when: `now` is in milliseconds of whatever clock never goes
 * back. It has no clock of its own.
 */
export class Retries {
  #tries = 0; // since the last progress
  #patientSince: number;
  #limitMs: number;
  #attachedAt: number | undefined; // of the present stream
  #lifeMs = LIFE_MS;
  readonly #written: { readonly last: number; readonly at: number }[] = []; // on the present stream, unacknowledged
  #suspicious = 0; // breaks in a row that the first unacknowledged event may have caused

  /**
   * @param opened the session is known to exist.
   * @param random returns a number from 0 to 1.
   */
  constructor(
    private readonly policy: Required<RetryPolicy>,
    now: number,
    opened: boolean,
    private readonly random: () => number = Math.random,
  ) {
    this.#patientSince = now;
    this.#limitMs = opened ? policy.totalMs : Math.min(policy.totalMs, REPEAT_OPEN_MS);
  }

  /**
   * A stream was answered. Returns for how long to hold all events back on it.
   *
   * @param idle nothing of the client's is unacknowledged.
   */
  attached(now: number, { idle, heartbeatMs }: { idle: boolean; heartbeatMs: number }): number {
    this.#limitMs = this.policy.totalMs;
    this.#attachedAt = now;
    this.#lifeMs = Math.min(heartbeatMs, LIFE_MS);
    if (idle) this.#patientSince = now;
    return this.#suspicious === BREAKS_TO_HOLD ? HOLD_MS : 0;
  }

  /** The first unacknowledged event may be poisoned: it shall be written alone. */
  get suspicious(): boolean {
    return this.#suspicious >= BREAKS_TO_HOLD;
  }

  /** The events up to `last` are being written, after those before. */
  written(now: number, last: number): void {
    this.#written.push({ last, at: now });
  }

  /** An ack, or `Resumed.received`, has advanced to `sequence`: another event is the first one now. */
  acked(now: number, sequence: number): void {
    while (this.#written[0] !== undefined && this.#written[0].last <= sequence) this.#written.shift();
    this.#suspicious = 0;
    this.progressed(now);
  }

  /** A new command has come. */
  progressed(now: number): void {
    this.#tries = 0;
    this.#patientSince = now;
  }

  /**
   * The stream broke, attached or not.
   *
   * @param told an ErrorInfo of the server's said so.
   * @param askedMs how long the server asks to wait.
   */
  broke(now: number, { told, askedMs }: { told: boolean; askedMs: number }): Decision {
    if (this.#attachedAt !== undefined) {
      if (now - this.#attachedAt >= this.#lifeMs) this.progressed(now);
      const first = this.#written[0];
      const suspicious = !told && first !== undefined && now - first.at <= SUSPICION_MS;
      this.#suspicious = suspicious ? this.#suspicious + 1 : 0;
    }
    this.#attachedAt = undefined;
    this.#written.length = 0;
    if (this.#suspicious >= BREAKS_TO_GIVE_UP) return { action: "poisoned" };
    const delayMs = Math.max(this.#backOff(), askedMs);
    if (now + delayMs - this.#patientSince > this.#limitMs) return { action: "lose", limitMs: this.#limitMs };
    return { action: "retry", delayMs };
  }

  /** Exponential, with full jitter (Brooker, "Exponential Backoff And Jitter", 2015). */
  #backOff(): number {
    const most = Math.min(this.policy.maximumMs, this.policy.initialMs * 2 ** Math.min(this.#tries, 60));
    this.#tries += 1;
    return this.random() * most;
  }
}
