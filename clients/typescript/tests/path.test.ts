/** Paths that break, over real sockets (protocol D7). */
import assert from "node:assert/strict";
import { test } from "node:test";

import { durationFromMs } from "@bufbuild/protobuf/wkt";

import { PoisonedEventError, SessionClient, SessionLost } from "../src/index.js";
import { FakeServer, type FakeCall, type Script } from "./fake.js";
import { Relay } from "./relay.js";
import { NO_SERVER, Server } from "./server.js";

const QUICK = { initialMs: 5, maximumMs: 20 };

async function endWell(call: FakeCall, commands = 0): Promise<void> {
  call.writeClosed(commands + 1);
  await call.readUntil(({ ack }) => ack === BigInt(commands + 1));
}

function times(count: number, script: Script): Script[] {
  return Array.from({ length: count }, () => script);
}

test("an event of a size that never passes is given up, with its sequence and size", { skip: NO_SERVER }, async () => {
  await using server = await Server.start();
  await using relay = await Relay.start(server.address, { mostUp: 100_000 });
  await using client = new SessionClient(relay.address, { retry: QUICK });
  const session = await client.open("echo");
  await session.send("say", "small");
  await session.send("say", "x".repeat(200_000));
  await session.send("say", "behind");
  await assert.rejects(
    async () => {
      for await (const { spec } of session) assert.equal(spec, "small");
    },
    (error: unknown) => {
      assert.ok(error instanceof PoisonedEventError && error instanceof SessionLost);
      assert.deepEqual([error.sequence, error.takenOver], [2, 1]);
      assert.ok(error.size >= 200_000 && error.size < 200_100);
      assert.match(error.message, /^event 2, of 2000\d\d bytes, never gets through: /);
      return true;
    },
  );
});

test("before the last two tries the event is held back, while all else goes on", async () => {
  const breaks: Script = async (call) => {
    await call.attach();
    await call.readUntil(({ events }) => events.length > 0);
    call.reset();
  };
  await using fake = await FakeServer.start(
    ...times(3, breaks),
    async (call) => {
      await call.attach();
      call.writeCommands(1, 1);
      const ack = await call.readUntil(({ ack }) => ack === 1n);
      assert.deepEqual(ack.events, []); // 20 ms after the command, where an event would have gone at once
      await call.readUntil(({ events }) => events.length > 0);
      call.reset();
    },
    breaks,
  );
  await using client = new SessionClient(fake.address, { retry: QUICK });
  const session = await client.open("app");
  await session.send("e");
  await assert.rejects(async () => {
    for await (const { spec } of session) assert.equal(spec, 1);
  }, PoisonedEventError);
});

test("a path that breaks before the event is written is not taken for the event, and patience ends", async () => {
  const cutAfter50 = times(1000, async (call: FakeCall) => {
    await call.attach();
    setTimeout(() => {
      call.cut();
    }, 50);
    await call.readAll();
  });
  await using fake = await FakeServer.start(...cutAfter50);
  await using client = new SessionClient(fake.address, { retry: { ...QUICK, totalMs: 2000 } });
  const session = await client.open("app");
  await session.send("e");
  await assert.rejects(
    session[Symbol.asyncIterator]().next(),
    (error: unknown) => error instanceof SessionLost && !(error instanceof PoisonedEventError),
  );
});

test("an idle session that is cut again and again lives on, beyond its patience", async () => {
  const start = performance.now();
  let over = false;
  await using fake = await FakeServer.start(
    ...times(1000, async (call) => {
      await call.attach();
      if (over) {
        await endWell(call);
        return;
      }
      over = performance.now() - start > 1500;
      call.cut();
    }),
  );
  await using client = new SessionClient(fake.address, { retry: { ...QUICK, totalMs: 1000 } });
  const session = await client.open("app");
  for await (const command of session) assert.fail(command.command);
  assert.equal(session.closed?.reason, "COMPLETED");
});

test("a busy session that is cut again and again lives on, for it makes progress", async () => {
  const cuts = 100;
  let taken = 0;
  await using fake = await FakeServer.start(
    ...times(cuts, async (call) => {
      await call.attach({}, taken);
      await call.readUntil(({ events }) => events.length > 0);
      taken += 1;
      call.write({ ack: BigInt(taken) });
      call.cut();
    }),
    async (call) => {
      await call.attach({}, taken);
      await endWell(call);
    },
  );
  await using client = new SessionClient(fake.address, { retry: QUICK });
  const session = await client.open("app");
  for (let i = 0; i < cuts; i++) await session.send("e", i);
  for await (const command of session) assert.fail(command.command);
  assert.equal(taken, cuts);
});

test("a server that stalls is neither given up, nor is the event", async () => {
  await using fake = await FakeServer.start(
    ...times(8, async (call) => {
      await call.attach({ heartbeatInterval: durationFromMs(40) });
      await call.over; // the client ends it after three intervals
    }),
    async (call) => {
      await call.attach();
      await call.readUntil(({ events }) => events.length > 0);
      call.write({ ack: 1n });
      await endWell(call);
    },
  );
  await using client = new SessionClient(fake.address, { retry: QUICK });
  const session = await client.open("app");
  await session.send("e");
  for await (const command of session) assert.fail(command.command);
  assert.equal(session.closed?.reason, "COMPLETED");
});
