/** What is over, and asked for again and again, leaves the event loop its turns. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { SessionClient, type Session } from "../src/index.js";
import { FakeServer } from "./fake.js";

/** Runs `call` again and again, whatever it throws, until a timer has come through; returns how often it was run. */
async function careless(call: () => Promise<unknown>): Promise<number> {
  let rounds = 0;
  const timer = AbortSignal.timeout(1);
  while (!timer.aborted && rounds < 100_000) {
    rounds += 1;
    try {
      await call();
    } catch {
      // as a careless program does
    }
  }
  return rounds;
}

const ended: Record<string, (session: Session, client: SessionClient) => Promise<unknown>> = {
  send: (session) => session.send("e"),
  "send what cannot be sent": (session) => session.send("e", NaN),
  next: (session) => session[Symbol.asyncIterator]().next(),
  "an aborted next": (session) => session.commands({ signal: AbortSignal.abort() })[Symbol.asyncIterator]().next(),
  "an aborted close": (session) => session.close({ signal: AbortSignal.abort() }),
  close: (session) => session.close(),
  "a disposal": (session) => session[Symbol.asyncDispose](),
  detach: (session) => session.detach(),
  "an open that cannot be": (_, client) => client.open("app", { params: { n: NaN } }),
  "an aborted open": (_, client) => client.open("app", { signal: AbortSignal.abort() }),
};

for (const [what, call] of Object.entries(ended)) {
  test(`after the end, ${what} again and again lets timers through`, async () => {
    await using fake = await FakeServer.start(async (call) => {
      await call.attach();
      call.writeClosed(0);
    });
    await using client = new SessionClient(fake.address);
    const session = await client.open("app", { plain: true });
    await session.close();
    assert.ok((await careless(() => call(session, client))) < 100_000);
  });
}

test("of a session that was lost, and of a client that is closed, too", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    call.refuse("R", "NEVER", 10);
  });
  const client = new SessionClient(fake.address);
  const session = await client.open("app");
  await assert.rejects(session[Symbol.asyncIterator]().next(), /R: /);
  for (const call of [
    () => session.send("e"),
    () => session[Symbol.asyncIterator]().next(),
    () => session.close(),
    () => session.detach(),
    () => session[Symbol.asyncDispose](),
  ]) {
    assert.ok((await careless(call)) < 100_000);
  }
  await client.close();
  assert.ok((await careless(() => client.close())) < 100_000);
  assert.ok((await careless(() => client[Symbol.asyncDispose]())) < 100_000);
  assert.ok((await careless(() => client.open("app"))) < 100_000);
  assert.ok((await careless(() => client.resume(session.position))) < 100_000);
});

test("of a session that was detached, too", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    await call.readAll();
  });
  await using client = new SessionClient(fake.address);
  const session = await client.open("app");
  await session.detach();
  for (const call of [
    () => session.detach(),
    () => session.close(),
    () => session[Symbol.asyncDispose](),
    () => session[Symbol.asyncIterator]().next(),
  ]) {
    assert.ok((await careless(call)) < 100_000);
  }
});
