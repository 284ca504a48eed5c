/** Asked at each attach for the metadata that says who is calling; the signal aborts when that takes too long. */
export type Credentials = (options: {
  readonly signal: AbortSignal;
}) => Readonly<Record<string, string>> | Promise<Readonly<Record<string, string>>>;

const KEY = /^[0-9A-Za-z_.-]+$/; // sent in lower case
const VALUE = /^[\x20-\x7e]*$/;
const BASE64 = /^[0-9A-Za-z+/]*={0,2}$/;

/** Those of HTTP/2 and of gRPC itself. */
const RESERVED =
  /^(connection|content-length|content-type|host|keep-alive|proxy-connection|te|transfer-encoding|upgrade|grpc-.*)$/i;

/**
 * Returns the metadata of an attach.
 *
 * @param timeoutMs what asking may take.
 * @param left ends the wait.
 * @throws what `credentials` throws, {@link TypeError} for what no metadata can hold, or the reason of `left`.
 */
export async function askFor(
  credentials: Credentials | undefined,
  timeoutMs: number,
  left: AbortSignal,
): Promise<Readonly<Record<string, string>>> {
  if (credentials === undefined) return {};
  const giveUp = new AbortController();
  const timer = setTimeout(() => {
    giveUp.abort(new Error(`no answer within ${String(timeoutMs)} ms`));
  }, timeoutMs);
  const onLeft = () => {
    giveUp.abort(left.reason);
  };
  left.addEventListener("abort", onLeft);
  if (left.aborted) onLeft();
  try {
    const metadata = await Promise.race([credentials({ signal: giveUp.signal }), rejectOn(giveUp.signal)]);
    checkMetadata(metadata);
    return metadata;
  } finally {
    clearTimeout(timer);
    left.removeEventListener("abort", onLeft);
  }
}

/**
 * Checks what would otherwise fail at each try, or reach the server as something else. No text holds a value: they are
 * secrets.
 */
function checkMetadata(metadata: Readonly<Record<string, unknown>>): void {
  for (const [key, value] of Object.entries(metadata)) {
    const name = JSON.stringify(key);
    if (!KEY.test(key)) throw new TypeError(`${name} is no metadata key: use letters, digits, "-", "_" and "."`);
    if (RESERVED.test(key)) throw new TypeError(`the metadata ${name} belongs to gRPC itself: leave it out`);
    if (typeof value !== "string") throw new TypeError(`the metadata ${name} is no text`);
    if (key.toLowerCase().endsWith("-bin")) {
      if (!BASE64.test(value)) throw new TypeError(`the metadata ${name} is no base64, as keys in -bin are`);
    } else if (!VALUE.test(value)) {
      const what = /[\r\n]/.test(value) ? "a line break: trim what you read from a file" : "more than printable ASCII";
      throw new TypeError(`the metadata ${name} holds ${what}; for other bytes use a key in -bin, and base64`);
    }
  }
}

/** Rejects when the signal aborts, with its reason. */
async function rejectOn(signal: AbortSignal): Promise<never> {
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => {
      resolve();
    });
  });
  throw signal.reason;
}
