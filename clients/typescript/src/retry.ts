/** How a client comes back. */
export interface RetryPolicy {
  /** The most to wait before the first try; 200 by default. */
  readonly initialMs?: number;
  /** The most to wait before any later one; the bound doubles until there. 10,000 by default. */
  readonly maximumMs?: number;
  /** Without an attachment for so long the session counts as lost; 120,000 by default. */
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

/** Exponential delays with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), until they are reset. */
export class Backoff {
  #tries = 0;

  /** `random` returns a number from 0 to 1. */
  constructor(
    private readonly policy: Required<RetryPolicy>,
    private readonly random: () => number = Math.random,
  ) {}

  /** Begins anew: an attachment succeeded. */
  reset(): void {
    this.#tries = 0;
  }

  /** Returns the milliseconds to wait before the next try. */
  next(): number {
    const most = Math.min(this.policy.maximumMs, this.policy.initialMs * 2 ** Math.min(this.#tries, 60));
    this.#tries += 1;
    return this.random() * most;
  }
}
