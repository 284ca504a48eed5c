/** What is written in one message (protocol F7 and D7). */
import assert from "node:assert/strict";
import { test } from "node:test";

import { toBinary } from "@bufbuild/protobuf";

import { PoisonedEventError, SessionClient } from "../src/index.js";
import { AttachRequestSchema } from "../src/v1.js";
import { FakeServer, type FakeCall } from "./fake.js";

const LONG_REASON = "\u20ac".repeat(1000); // 3,000 bytes

for (const plain of [true, false]) {
  for (const [maxMessageBytes, most] of [
    [65_536, 65_536],
    [4_000_000, 256 * 1024],
  ] as const) {
    for (const eventBytes of [10, 130, 20_000]) {
      const kind = `${plain ? "plain" : "resumable"}, of events of ${String(eventBytes)} bytes`;
      test(`F7: no message of many events is larger than ${String(most)} bytes: ${kind}`, async () => {
        const eventWindow = { messages: 100_000, bytes: 1 << 20 };
        await using fake = await FakeServer.start(async (call) => {
          await call.attach({ eventWindow, maxMessageBytes });
          await call.readUntil(({ control }) => control.case === "close");
          call.writeClosed(1);
          await call.readAll();
        });
        await using client = new SessionClient(fake.address);
        const session = await client.open("app", { plain });
        const count = Math.floor(600_000 / eventBytes);
        const sends = Array.from({ length: count }, () => session.send("e", "x".repeat(eventBytes - 9)));
        await Promise.all([...sends, session.close({ reason: LONG_REASON })]);
        const requests = fake.calls[0]?.requests ?? [];
        assert.equal(requests.flatMap(({ events }) => events).length, count);
        const sizes = requests.map((request) => toBinary(AttachRequestSchema, request).length);
        assert.ok(Math.max(...sizes) <= most, `there is one of ${String(Math.max(...sizes))} bytes`);
      });
    }
  }
}

test("D7: after the hold an event goes alone until it is acknowledged, so that the poisoned one is found", async () => {
  const messages: string[][] = [];
  let commands = 0;
  let received = 0;
  const filter = async (call: FakeCall) => {
    const { control } = await call.attach({}, received);
    assert.equal(control.case === "open", messages.length === 0);
    for (;;) {
      const { events } = await call.readUntil((request) => request.events.length > 0);
      messages.push(events.map(({ event }) => event));
      if (events.some(({ event }) => event === "POISON")) {
        call.reset();
        return;
      }
      commands += 1;
      call.writeCommands(commands, 1);
      const ack = await call.readUntil((request) => request.ack === BigInt(commands));
      assert.deepEqual(ack.events, []); // what is behind it would have been written by now
      received += events.length;
      call.write({ ack: BigInt(received) });
    }
  };
  await using fake = await FakeServer.start(...Array.from({ length: 8 }, () => filter));
  await using client = new SessionClient(fake.address, { retry: { initialMs: 5, maximumMs: 20 } });
  const session = await client.open("app");
  await Promise.all(["innocent", "POISON", "behind"].map((event) => session.send(event)));
  await assert.rejects(
    async () => {
      for await (const { command } of session) assert.equal(command, "c");
    },
    (error: unknown) => {
      assert.ok(error instanceof PoisonedEventError);
      assert.deepEqual([error.sequence, error.takenOver], [2, 1]);
      return true;
    },
  );
  const all = ["innocent", "POISON", "behind"];
  const rest = ["POISON", "behind"];
  assert.deepEqual(messages, [all, all, all, ["innocent"], rest, rest, rest, ["POISON"], ["POISON"]]);
});
