import { setImmediate } from "node:timers/promises";

/**
 * Has a call that fails wait for a turn of the event loop before it does.
 *
 * A program that calls again and again, whatever is thrown, would otherwise run in microtasks for good: no timer, no
 * answer and no signal would get through to end it.
 */
export async function failingInTurn<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    await setImmediate();
    throw error;
  }
}
