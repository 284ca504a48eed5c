import { setImmediate } from "node:timers/promises";

/**
 * Has a call wait for a turn of the event loop before it returns or throws.
 *
 * A program that calls again and again, whatever comes of it, would otherwise run in microtasks for good: no timer, no
 * answer and no signal would get through to end it.
 */
export async function inTurn<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } finally {
    await setImmediate();
  }
}

/** As {@link inTurn}, for calls that are bounded as long as they succeed: these pay for it only where they fail. */
export async function failingInTurn<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    await setImmediate();
    throw error;
  }
}
