/** Where a server listens. */
export interface Address {
  /** `HOST:PORT`; of a unix socket "localhost". */
  readonly authority: string;
  /** Of a unix socket. */
  readonly path: string | undefined;
}

/**
 * Reads `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
 *
 * @throws {TypeError} it is none of them; says what to write instead.
 */
export function parseAddress(address: string): Address {
  if (typeof address !== "string") throw new TypeError("an address is a text, such as localhost:50051");
  if (address.startsWith("unix:")) {
    const path = address.slice("unix:".length);
    if (path === "" || path.includes("\0")) throw wrong(address, "write unix:PATH, such as unix:/run/sessions.sock");
    return { authority: "localhost", path };
  }
  const scheme = /^([a-z][a-z0-9+.-]*):\/\/\/?(.*)$/is.exec(address);
  if (scheme !== null) {
    const tls = scheme[1]?.toLowerCase() === "https" ? " and the option `tls`" : "";
    throw wrong(address, `an address has no scheme: write ${exampleOf(scheme[2])}${tls}`);
  }
  if (/^[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*$/i.test(address)) {
    throw wrong(address, "an IPv6 address stands in brackets: write [ADDRESS]:PORT, such as [::1]:50051");
  }
  const [, host, port] = /^(\[[0-9a-f:.]+\]|[^\s:@/?#[\]\\%]+)(?::([0-9]*))?$/i.exec(address) ?? [];
  if (host === undefined) throw wrong(address, "write HOST:PORT, such as localhost:50051, or unix:PATH");
  if (!port) throw wrong(address, `the port is missing: write ${exampleOf(host)}`);
  if (Number(port) < 1 || Number(port) > 65_535) throw wrong(address, "a port is a number from 1 to 65535");
  if (!URL.canParse(`http://${address}`)) throw wrong(address, `${host} is no name of a host`);
  return { authority: address, path: undefined };
}

/** Makes of what was given what was probably meant. */
function exampleOf(given = ""): string {
  const host = given.replace(/[/?#].*$/s, "");
  return /:[0-9]+$/.test(host) ? host : `${host.replace(/:$/, "") || "localhost"}:50051`;
}

function wrong(address: string, why: string): TypeError {
  return new TypeError(`${JSON.stringify(address)} is no address: ${why}`);
}
