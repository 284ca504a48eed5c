import { Violation } from "./violation.js";
import { fits, hasRoom, type Window } from "./window.js";

interface Element<T> {
  readonly item: T;
  readonly size: number;
}

/**
 * The sending side of a direction: numbers elements, keeps them until they are acknowledged, and gives out what the
 * window lets go.
 *
 *     append ──> queue ──take──> sent ──ack──> gone
 *                  ^               │
 *                  └────resume─────┘
 */
export class Outbox<T> {
  /** What the peer granted; a resume may change it. */
  window: Window;
  #acked: number;
  #sentUpTo: number;
  #highest: number; // of all streams: no peer can have received more
  readonly #sent: Element<T>[] = [];
  #sentSize = 0;
  readonly #queue: Element<T>[] = [];
  #queueSize = 0;

  /** Begins after `acked`: where another process goes on. */
  constructor(window: Window, acked = 0) {
    this.window = window;
    this.#acked = this.#sentUpTo = this.#highest = acked;
  }

  /** Every element up to this sequence has been acknowledged. */
  get acked(): number {
    return this.#acked;
  }

  /** The last sequence that was written on the current stream, or that the peer of it said it had. */
  get sent(): number {
    return this.#sentUpTo;
  }

  /** The size of the first element that is not acknowledged; 0 where there is none. */
  get firstSize(): number {
    return (this.#sent[0] ?? this.#queue[0])?.size ?? 0;
  }

  /** The sequence of the newest element, 0 before the first. */
  get last(): number {
    return this.#sentUpTo + this.#queue.length;
  }

  /** True when something has not been written on the current stream. */
  get waiting(): boolean {
    return this.#queue.length > 0;
  }

  /** True when everything appended has been acknowledged. */
  get empty(): boolean {
    return this.#sent.length === 0 && this.#queue.length === 0;
  }

  /** True while another element may be appended; else the application waits. */
  get hasRoom(): boolean {
    return hasRoom(this.window, this.#sent.length + this.#queue.length, this.#sentSize + this.#queueSize);
  }

  /** Adds an element of `size` bytes and returns its sequence. */
  append(item: T, size: number): number {
    this.#queue.push({ item, size });
    this.#queueSize += size;
    return this.last;
  }

  /**
   * Takes what may be written now, as one batch that the caller writes next: nothing where the window, or the outbox,
   * has no more.
   *
   * @param size the most bytes of a batch; a first element that is larger comes alone.
   * @param framing the bytes of a batch that each element takes beside its own.
   */
  take(size: number, framing = 0): { first: number; batch: T[] } {
    const first = this.#sentUpTo + 1;
    const batch: T[] = [];
    let count = 0;
    for (const element of this.#queue) {
      if (!fits(this.window, this.#sent.length, this.#sentSize, element.size)) break;
      if (count > 0 && element.size + framing > size) break;
      size -= element.size + framing;
      batch.push(element.item);
      this.#sent.push(element);
      this.#sentSize += element.size;
      this.#queueSize -= element.size;
      count += 1;
    }
    this.#queue.splice(0, count);
    this.#sentUpTo += count;
    this.#highest = Math.max(this.#highest, this.#sentUpTo);
    return { first, batch };
  }

  /**
   * Forgets everything up to `sequence`, which the peer will never need again; a lower one than before is ignored.
   *
   * @throws {@link Violation} nothing of this sequence has been written on this stream (protocol D3, D8).
   */
  ack(sequence: number): void {
    if (sequence > this.#sentUpTo) {
      throw new Violation(`ack ${String(sequence)} is beyond what was sent (${String(this.#sentUpTo)})`);
    }
    if (sequence <= this.#acked) return;
    for (const { size } of this.#sent.splice(0, sequence - this.#acked)) this.#sentSize -= size;
    this.#acked = sequence;
  }

  /**
   * Begins a new stream whose peer has everything up to `received`: what comes after is sent again.
   *
   * @throws {@link Violation} it was acknowledged long ago, or never sent.
   */
  resume(received: number): void {
    if (received < this.#acked || received > this.#highest) {
      const kept = `${String(this.#acked)} to ${String(this.#highest)}`;
      throw new Violation(`cannot go on after ${String(received)}: only ${kept} are kept`);
    }
    const all = [...this.#sent, ...this.#queue];
    const had = received - this.#acked;
    this.#sent.splice(0, this.#sent.length, ...all.slice(0, had));
    this.#queue.splice(0, this.#queue.length, ...all.slice(had));
    this.#sentSize = sizeOf(this.#sent);
    this.#queueSize = sizeOf(this.#queue);
    this.#sentUpTo = received;
  }
}

function sizeOf(elements: readonly Element<unknown>[]): number {
  return elements.reduce((sum, { size }) => sum + size, 0);
}
