/** The one pair of numbers that bounds a direction: replay buffer and backpressure at once (protocol D5). */

/** The most that may be under way and not yet acknowledged. */
export interface Window {
  /** How many events or commands. */
  readonly messages: number;
  /** Their encoded sizes together. One alone may be larger. */
  readonly bytes: number;
}

export const NO_WINDOW: Window = { messages: 0, bytes: 0 };
export const DEFAULT_WINDOW: Window = { messages: 1024, bytes: 1 << 20 };

/** Tells whether anything may join `messages` elements of `bytes` bytes together. */
export function hasRoom(window: Window, messages: number, bytes: number): boolean {
  return messages < window.messages && bytes < window.bytes;
}

/** Tells whether `extra` bytes more may join `messages` elements of `bytes` bytes; the first always may. */
export function fits(window: Window, messages: number, bytes: number, extra: number): boolean {
  return messages === 0 || (messages < window.messages && bytes + extra <= window.bytes);
}
