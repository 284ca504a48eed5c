/** What the caller has got wrong is said at once, and what to do instead; it is no outage (protocol D7). */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { createSecureServer } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import { createServer as createTcpServer, type AddressInfo, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { createServer as createTlsServer } from "node:tls";
import { promisify } from "node:util";

import { SessionClient, SessionLost, type ClientOptions } from "../src/index.js";
import { FakeServer, type FakeCall } from "./fake.js";

const run = promisify(execFile);

async function listen(server: Server): Promise<string> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return `127.0.0.1:${String((server.address() as AddressInfo).port)}`;
}

/** Opens once; fails where there is a second try. */
async function openOnce(address: string, options: ClientOptions = {}): Promise<void> {
  await using client = new SessionClient(address, {
    ...options,
    onAttachment: ({ retryInMs }) => {
      assert.equal(retryInMs, undefined, "it is tried again");
    },
  });
  await (await client.open("app")).close();
}

async function endWell(call: FakeCall): Promise<void> {
  await call.attach();
  call.writeClosed(1);
  await call.readAll();
}

describe("ports of something else", () => {
  let folder: string;
  let certificate: { key: Buffer; cert: Buffer };
  const servers: Server[] = [];

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "session-service-"));
    const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
    const request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"];
    await run("openssl", [...request, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]);
    certificate = { key: await readFile(key), cert: await readFile(cert) };
  });
  after(async () => {
    for (const server of servers) server.close();
    await rm(folder, { recursive: true });
  });

  function serve(server: Server): Promise<string> {
    servers.push(server);
    return listen(server);
  }

  test("HTTP/1", async () => {
    await assert.rejects(openOnce(await serve(createHttpServer())), /speaks no HTTP\/2, so it is no port of gRPC/);
  });

  test("plain text to TLS", async () => {
    for (const server of [createSecureServer(certificate), createHttpsServer(certificate)]) {
      await assert.rejects(openOnce(await serve(server)), /speaks TLS: give the client the option `tls`/);
    }
  });

  test("TLS to plain text", async () => {
    await using fake = await FakeServer.start();
    for (const address of [fake.address, await serve(createHttpServer())]) {
      await assert.rejects(openOnce(address, { tls: {} }), /speaks no TLS: leave the option `tls` out/);
    }
  });

  test("TLS without HTTP/2", async () => {
    const address = await serve(createHttpsServer(certificate));
    await assert.rejects(openOnce(address, { tls: { ca: certificate.cert } }), /speaks no HTTP\/2/);
  });

  test("a certificate of nobody, or of somebody else", async () => {
    const address = await serve(createSecureServer(certificate));
    await assert.rejects(openOnce(address, { tls: {} }), /self-signed certificate/);
    const tls = { ca: certificate.cert, servername: "example.com" };
    await assert.rejects(openOnce(address, { tls }), /does not match certificate's altnames/);
  });

  test("no certificate of the client's where one is asked for, told or not", async () => {
    const asking = { ...certificate, ca: certificate.cert, requestCert: true, rejectUnauthorized: true };
    const silent = createTlsServer({ ...asking, rejectUnauthorized: false, ALPNProtocols: ["h2"] }, (socket) => {
      socket.end(); // as gRPC's own servers do, without an alert
    });
    for (const server of [createSecureServer(asking), silent]) {
      const tls = { ca: certificate.cert };
      await assert.rejects(
        openOnce(await serve(server), { tls }),
        /asks for a client's certificate: give the option `tls`/,
      );
    }
  });

  test("a key that is none", async () => {
    await assert.rejects(openOnce("127.0.0.1:1", { tls: { key: "x", cert: "y" } }), /the option `tls` cannot be used/);
  });

  test("something that ends each connection may be a proxy without a server, and is tried again", async () => {
    let connections = 0;
    const abort = new AbortController();
    const address = await serve(
      createTcpServer((socket) => {
        socket.on("error", () => undefined);
        socket.end();
        connections += 1;
        if (connections > 5) abort.abort(new Error("again"));
      }),
    );
    await using client = new SessionClient(address, { retry: { initialMs: 5, maximumMs: 20 } });
    await assert.rejects(client.open("app", { signal: abort.signal }), /again/);
  });

  test("what was there once, and speaks another protocol now, is an outage", async () => {
    const fake = await FakeServer.start(endWell);
    const { address } = fake;
    const abort = new AbortController();
    let lost = 0;
    await using client = new SessionClient(address, {
      retry: { initialMs: 5, maximumMs: 20 },
      onAttachment: ({ state }) => {
        if (state === "lost" && ++lost === 3) abort.abort(new Error("again"));
      },
    });
    await (await client.open("app")).close();
    await fake[Symbol.asyncDispose]();
    const server = createHttpServer();
    servers.push(server);
    server.listen(Number(address.split(":")[1]), "127.0.0.1");
    await once(server, "listening");
    await assert.rejects(client.open("app", { signal: abort.signal }), /again/);
  });
});

const METADATA: readonly [Record<string, unknown>, RegExp][] = [
  [{ authorization: "Bearer x\n" }, /"authorization" holds a line break: trim/],
  [{ authorization: "Bearer\r\nx: y" }, /"authorization" holds a line break/],
  [{ authorization: "Bearer \u00e9" }, /"authorization" holds more than printable ASCII/],
  [{ authorization: "Bearer \u0000" }, /more than printable ASCII/],
  [{ authorization: undefined }, /"authorization" is no text/],
  [{ "two words": "x" }, /"two words" is no metadata key/],
  [{ ":path": "x" }, /":path" is no metadata key/],
  [{ "": "x" }, /"" is no metadata key/],
  [{ "trace-bin": "no base64!" }, /"trace-bin" is no base64/],
  [{ Connection: "close" }, /"Connection" belongs to gRPC itself/],
  [{ "grpc-timeout": "1S" }, /"grpc-timeout" belongs to gRPC itself/],
];

for (const [metadata, remedy] of METADATA) {
  test(`the metadata ${JSON.stringify(metadata)} is never sent`, async () => {
    await using fake = await FakeServer.start();
    const credentials = () => metadata as Record<string, string>;
    await assert.rejects(
      openOnce(fake.address, { credentials }),
      (error: unknown) =>
        error instanceof SessionLost && remedy.test(error.message) && !error.message.includes("Bearer"),
    );
    assert.equal(fake.calls.length, 0);
  });
}

test("metadata with capitals is sent in lower case, and bytes in base64", async () => {
  await using fake = await FakeServer.start(endWell);
  await openOnce(fake.address, { credentials: () => ({ Authorization: "Bearer x", "X-Bin": "AAE=" }) });
  const { headers } = fake.calls[0] ?? {};
  assert.deepEqual([headers?.authorization, headers?.["x-bin"]], ["Bearer x", "AAE="]);
});
