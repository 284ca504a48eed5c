import { SequenceGap, Violation } from "./violation.js";
import { fits, hasRoom, type Window } from "./window.js";

/**
 * The receiving side of a direction: drops what came before, refuses gaps, keeps what nobody has taken over, and knows
 * what there is to acknowledge.
 */
export class Inbox<T> {
  /** What was granted to the peer. */
  window: Window;
  #taken: number;
  #acked: number;
  #heard: number;
  #repeat = false;
  #unackedSize = 0;
  readonly #waiting: { readonly item: T; readonly size: number }[] = [];
  #waitingSize = 0;

  /** Begins after `taken`: where another process goes on. */
  constructor(window: Window, taken = 0) {
    this.window = window;
    this.#taken = this.#acked = this.#heard = taken;
  }

  /** Every element up to this sequence has been taken over and will never be needed again (protocol D4). */
  get taken(): number {
    return this.#taken;
  }

  /** The sequence of the next new element. */
  get expected(): number {
    return this.#taken + this.#waiting.length + 1;
  }

  /** The first element not yet taken over. */
  get head(): T | undefined {
    return this.#waiting[0]?.item;
  }

  /** False while a window's worth waits: a caller that can make its peer wait does so now (protocol P4). */
  get hasRoom(): boolean {
    return hasRoom(this.window, this.#waiting.length, this.#waitingSize);
  }

  /**
   * Returns how many of `count` elements from sequence `first` on have been received before.
   *
   * @throws {@link SequenceGap} something before them is missing (protocol D2).
   */
  skip(first: number, count: number): number {
    const expected = this.expected;
    if (first > expected) throw new SequenceGap(expected, first);
    const known = Math.min(expected - first, count);
    if (known > 0) {
      this.#repeat = true; // the peer may have missed the acknowledgement
      this.#heard = Math.max(this.#heard, first + known - 1);
    }
    return known;
  }

  /**
   * Keeps a new element of `size` bytes until it is taken over.
   *
   * @param exempt it needs no window (protocol D6).
   * @throws {@link Violation} the peer sent more than it was granted (protocol D5).
   */
  put(item: T, size: number, exempt = false): void {
    if (!exempt && !fits(this.window, this.#waiting.length, this.#waitingSize, size)) {
      const { messages, bytes } = this.window;
      throw new Violation(`more than ${String(messages)} commands or ${String(bytes)} bytes are unacknowledged`);
    }
    this.#waiting.push({ item, size });
    this.#waitingSize += size;
    this.#heard = this.#taken + this.#waiting.length;
  }

  /** Counts the head as taken over: from now on it is acknowledged. */
  take(): void {
    const size = this.#waiting.shift()?.size ?? 0;
    this.#waitingSize -= size;
    this.#unackedSize += size;
    this.#taken += 1;
  }

  /**
   * Begins a new stream: acknowledgements written on the old one may be lost with it.
   *
   * @param heard the last element of which the stream's beginning speaks. An ack covers only what the peer has written
   *   on the same stream, or what that began with (protocol D8).
   */
  restartAcks(heard: number): void {
    this.#heard = heard;
    this.#acked = 0;
    this.#repeat = false;
  }

  /** True when the peer has not been told everything. */
  get ackPending(): boolean {
    return this.#repeat || this.#ackable > this.#acked;
  }

  /** True when the peer should be told at once, for it may be waiting: a quarter of the window (protocol D3). */
  get ackDue(): boolean {
    const unacked = this.#ackable - this.#acked;
    return unacked * 4 >= this.window.messages || (unacked > 0 && this.#unackedSize * 4 >= this.window.bytes);
  }

  /** Returns what to tell the peer, which the caller does next. */
  ack(): number {
    this.#acked = this.#ackable;
    this.#unackedSize = 0;
    this.#repeat = false;
    return this.#acked;
  }

  get #ackable(): number {
    return Math.min(this.#taken, this.#heard);
  }
}
