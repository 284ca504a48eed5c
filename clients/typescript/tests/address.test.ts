import assert from "node:assert/strict";
import { test } from "node:test";

import { SessionClient } from "../src/index.js";

for (const address of [
  "localhost:50051",
  "127.0.0.1:1",
  "[::1]:65535",
  "a-b.example:80",
  "unix:/run/x.sock",
  "unix:x",
]) {
  test(`${address} is an address`, async () => {
    await new SessionClient(address).close();
  });
}

for (const [address, remedy] of [
  ["http://localhost:5000", /write localhost:5000$/],
  ["HTTP://localhost/", /write localhost:50051$/],
  ["https://sessions.example.com:443/v1", /write sessions\.example\.com:443 and the option `tls`$/],
  ["grpc://localhost:5000", /no scheme: write localhost:5000$/],
  ["dns:///localhost:5000", /no scheme: write localhost:5000$/],
  ["localhost", /the port is missing: write localhost:50051$/],
  ["localhost:", /the port is missing: write localhost:50051$/],
  ["[::1]", /the port is missing: write \[::1\]:50051$/],
  ["::1", /in brackets: write \[ADDRESS\]:PORT/],
  ["localhost:0", /from 1 to 65535/],
  ["localhost:65536", /from 1 to 65535/],
  ["localhost:http", /write HOST:PORT/],
  [":5000", /write HOST:PORT/],
  ["", /write HOST:PORT/],
  ["local host:5000", /write HOST:PORT/],
  [" localhost:5000", /write HOST:PORT/],
  ["localhost:5000\n", /write HOST:PORT/],
  ["localhost:5000/app", /write HOST:PORT/],
  ["me@localhost:5000", /write HOST:PORT/],
  ["999.1.1.1:5000", /no name of a host/],
  ["unix:", /write unix:PATH/],
] as const) {
  test(`${JSON.stringify(address)} is no address, and the error says what to write`, () => {
    assert.throws(() => new SessionClient(address), { name: "TypeError", message: remedy });
  });
}
