import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { createServer, type Socket } from "node:net";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { create, toBinary } from "@bufbuild/protobuf";
import { anyPack, AnySchema, durationFromMs, DurationSchema, type Any } from "@bufbuild/protobuf/wkt";
import { createRegistry } from "@bufbuild/protobuf";

import {
  PayloadError,
  SessionClient,
  SessionEnded,
  SessionLost,
  type Attachment,
  type ClientOptions,
  type Command,
  type Session,
} from "../src/index.js";
import { AttachRequestSchema, CloseReason, PayloadFormat, type AttachRequest } from "../src/v1.js";
import { FakeServer, type FakeCall, type Script } from "./fake.js";

const QUICK = { initialMs: 5, maximumMs: 20, totalMs: 20_000, attachTimeoutMs: 10_000 };
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const UNAVAILABLE = 14;
const CANCEL = 8; // of HTTP/2

function clientOf(fake: FakeServer, options: ClientOptions = {}): SessionClient {
  return new SessionClient(fake.address, { ...options, retry: { ...QUICK, ...options.retry } });
}

async function specsOf(commands: AsyncIterable<Command>): Promise<unknown[]> {
  const specs: unknown[] = [];
  for await (const command of commands) specs.push(command.spec);
  return specs;
}

async function next(session: Session, signal?: AbortSignal): Promise<unknown> {
  for await (const command of session.commands({ signal })) return command.spec;
  return "the end";
}

function valuesOf({ events }: AttachRequest): unknown[] {
  return events.map(({ payload }) => payload.value);
}

/** Reads events until there are `count`, and returns their payloads with the sequences they came under. */
async function readEvents(call: FakeCall, count: number): Promise<[number, unknown][]> {
  const found: [number, unknown][] = [];
  while (found.length < count) {
    const request = await call.readUntil(({ events }) => events.length > 0);
    found.push(...valuesOf(request).map((value, i): [number, unknown] => [Number(request.firstSequence) + i, value]));
  }
  return found;
}

/** Ends the session, which had `count` commands in all, as one should. */
async function endWell(call: FakeCall, count: number): Promise<void> {
  call.writeClosed(count + 1);
  await call.readUntil(({ ack }) => ack === BigInt(count + 1));
}

test("an open says who is there, and what it wants", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    await endWell(call, 0);
  });
  await using client = clientOf(fake, { commandWindow: { messages: 7, bytes: 700 } });
  const session = await client.open("app", {
    params: { n: 1, list: [true, null] },
    headers: { "user-agent": "x" },
    resumeWindowMs: 1500,
  });
  assert.deepEqual(await specsOf(session), []);
  assert.deepEqual([session.id, session.closed], ["s-1", { reason: "COMPLETED", message: "" }]);
  const control = fake.calls[0]?.requests[0]?.control;
  assert.ok(control?.case === "open");
  const { app, params, headers, resumable, requestId, clientId, resumeWindow, commandWindow, commandFormat } =
    control.value;
  assert.deepEqual([app, params, headers], ["app", { n: 1, list: [true, null] }, { "user-agent": "x" }]);
  assert.match(requestId, UUID);
  assert.match(clientId, UUID);
  assert.notEqual(requestId, clientId);
  assert.deepEqual([resumable, commandFormat], [true, PayloadFormat.JSON]);
  assert.deepEqual([resumeWindow?.seconds, resumeWindow?.nanos], [1n, 500_000_000]);
  assert.deepEqual([commandWindow?.messages, commandWindow?.bytes], [7, 700]);
});

test("events are numbered in the order of the calls, awaited or not", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    assert.deepEqual(await readEvents(call, 3), [
      [1, '"a"'],
      [2, "2"],
      [3, "null"],
    ]);
    await endWell(call, 0);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  await Promise.all([session.send("e", "a"), session.send("e", 2), session.send("e")]);
  assert.deepEqual(await specsOf(session), []);
});

test("a command is acknowledged when the next one is asked for", async () => {
  const heard = new EventEmitter();
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    call.writeCommands(1, 1);
    assert.equal((await call.readUntil(({ events }) => events.length > 0)).ack, 0n);
    heard.emit("event");
    call.writeCommands(2, 1);
    assert.equal((await call.readUntil(({ events }) => events.length > 0)).ack, 1n);
    heard.emit("event");
    await endWell(call, 2);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  assert.equal(await next(session), 1);
  await Promise.all([once(heard, "event"), session.send("e", "has one")]);
  assert.equal(await next(session), 2);
  await Promise.all([once(heard, "event"), session.send("e", "has two")]);
  assert.deepEqual(await specsOf(session), []);
});

test("an ack goes alone at a quarter of the window, and else after a moment", async () => {
  for (const messages of [4, 1024]) {
    await using fake = await FakeServer.start(async (call) => {
      await call.attach({ commandWindow: { messages, bytes: 1 << 20 } });
      call.writeCommands(1, 1);
      const { ack, events, control } = await call.readUntil((request) => request.ack > 0n);
      assert.deepEqual([ack, events.length, control.case], [1n, 0, undefined]);
      await endWell(call, 1);
    });
    await using client = clientOf(fake);
    assert.deepEqual(await specsOf(await client.open("app")), [1]);
  }
});

test("a cut is told and resumed from, and nothing is lost or done twice", async () => {
  const told: [string, boolean][] = [];
  await using fake = await FakeServer.start(
    async (call) => {
      await call.attach();
      await readEvents(call, 3);
      call.write({ ack: 1n });
      call.writeCommands(1, 2);
      await call.readUntil(({ ack }) => ack > 0n);
      call.cut();
    },
    async (call) => {
      const { control } = await call.attach({}, 2);
      assert.ok(control.case === "resume");
      assert.deepEqual(
        [control.value.sessionId, control.value.resumeToken, control.value.received],
        ["s-1", "token", 2n],
      );
      call.writeCommands(2, 2); // 2 has been here before
      assert.deepEqual(await readEvents(call, 1), [[3, "3"]]);
      await endWell(call, 3);
    },
  );
  const onAttachment = ({ state, retryInMs }: Attachment) => told.push([state, retryInMs !== undefined]);
  await using client = clientOf(fake, { onAttachment });
  const session = await client.open("app");
  for (const value of [1, 2, 3]) await session.send("e", value);
  assert.deepEqual(await specsOf(session), [1, 2, 3]);
  assert.deepEqual(told, [
    ["attached", false],
    ["lost", true],
    ["resumed", false],
  ]);
});

test("on a new stream the client acknowledges again what its application has taken", async () => {
  await using fake = await FakeServer.start(
    async (call) => {
      await call.attach();
      call.writeCommands(1, 3);
      await call.readUntil(({ ack }) => ack === 3n);
      call.reset();
    },
    async (call) => {
      await call.attach();
      await call.readUntil(({ ack }) => ack === 3n);
      await endWell(call, 3);
    },
  );
  await using client = clientOf(fake);
  assert.deepEqual(await specsOf(await client.open("app")), [1, 2, 3]);
});

test("an open that ends without an answer is repeated with the same ids", async () => {
  await using fake = await FakeServer.start(
    async (call) => {
      await call.read();
      call.end(UNAVAILABLE);
    },
    async (call) => {
      await call.attach();
      await endWell(call, 0);
    },
  );
  await using client = clientOf(fake);
  await specsOf(await client.open("app"));
  assert.deepEqual(fake.calls[0]?.requests[0], fake.calls[1]?.requests[0]);
});

test("a heartbeat before the answer is no answer", async () => {
  await using fake = await FakeServer.start(async (call) => {
    call.write({});
    await call.attach();
    await endWell(call, 0);
  });
  await using client = clientOf(fake);
  assert.deepEqual(await specsOf(await client.open("app")), []);
});

test("a full window lets the application wait, in order, and an ack lets it go on", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach({ eventWindow: { messages: 2, bytes: 1 << 20 } });
    await readEvents(call, 2);
    call.writeCommands(1, 1);
    await call.readUntil(({ ack, events }) => ack === 1n && events.length === 0);
    call.write({ ack: 2n });
    assert.deepEqual(await readEvents(call, 2), [
      [3, "3"],
      [4, "5"],
    ]);
    await endWell(call, 1);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  await session.send("e", 1);
  await session.send("e", 2);
  const third = session.send("e", 3);
  const abort = new AbortController();
  const fourth = session.send("e", 4, { signal: abort.signal });
  const fifth = session.send("e", 5);
  abort.abort(new Error("enough"));
  await assert.rejects(fourth, /enough/); // and it was not sent
  assert.equal(await next(session), 1);
  assert.deepEqual(await specsOf(session), []); // acknowledges 1
  await Promise.all([third, fifth]);
});

test("an event larger than the window goes alone, and one larger than a message is refused", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach({ eventWindow: { messages: 9, bytes: 100 }, maxMessageBytes: 3000 });
    assert.deepEqual(await readEvents(call, 1), [[1, `"${"x".repeat(1000)}"`]]);
    call.write({ ack: 1n });
    assert.deepEqual(await readEvents(call, 1), [[2, '"small"']]);
    await endWell(call, 0);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  await session.send("e", "x".repeat(1000));
  await assert.rejects(session.send("e", "x".repeat(3000)), PayloadError);
  await session.send("e", "small");
  assert.deepEqual(await specsOf(session), []);
});

test("what cannot be carried is refused at the call and uses nothing up", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    assert.deepEqual(await readEvents(call, 1), [[1, "1"]]);
    await endWell(call, 0);
  });
  await using client = clientOf(fake);
  await assert.rejects(client.open("app", { params: { n: NaN } }), /params\.n: NaN/);
  const session = await client.open("app");
  await assert.rejects(session.send("e", { n: undefined }), PayloadError);
  await assert.rejects(session.send("e\ud800", 1), PayloadError);
  await assert.rejects(session.send("e", create(DurationSchema)), /registry/);
  await session.send("e", 1);
  assert.deepEqual(await specsOf(session), []);
});

test("bytes and messages go and come as they are", async () => {
  const duration = durationFromMs(1500);
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    const [blob, message, any] = (await readEvents(call, 3)).map(([, value]) => value);
    assert.deepEqual([...(blob as Uint8Array)], [1, 2]);
    assert.equal((message as Any).typeUrl, "type.googleapis.com/google.protobuf.Duration");
    assert.equal((any as Any).typeUrl, "example.com/unknown.Type");
    const unknown = create(AnySchema, { typeUrl: "example.com/unknown.Type" });
    call.write({
      firstSequence: 1n,
      commands: [
        { payload: { case: "blob", value: new Uint8Array([3]) } },
        { payload: { case: "message", value: anyPack(DurationSchema, duration) } },
        { payload: { case: "message", value: unknown } },
        { payload: { case: "spec", value: { kind: { case: "numberValue", value: 5 } } } },
        {},
      ],
    });
    await endWell(call, 5);
  });
  await using client = clientOf(fake, { registry: createRegistry(DurationSchema) });
  const session = await client.open("app");
  const bytes = new Uint8Array([1, 2]);
  await session.send("e", bytes);
  bytes[0] = 9; // it has been sent as it was
  await session.send("e", duration);
  await session.send("e", create(AnySchema, { typeUrl: "example.com/unknown.Type" }));
  const [blob, message, unknown, number, nothing] = await specsOf(session);
  assert.deepEqual([blob, message, number, nothing], [new Uint8Array([3]), duration, 5, null]);
  assert.equal((unknown as Any).typeUrl, "example.com/unknown.Type");
});

test("a wait for a command that is aborted loses none", async () => {
  const abort = new AbortController();
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    await readEvents(call, 1);
    call.writeCommands(1, 1);
    await endWell(call, 1);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  const waiting = next(session, abort.signal);
  await assert.rejects(next(session), /another loop/);
  abort.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/);
  await assert.rejects(next(session, abort.signal), /enough/);
  await session.send("e");
  assert.deepEqual(await specsOf(session), [1]);
});

test("an event that became too large while it waited is refused before it has a sequence", async () => {
  await using fake = await FakeServer.start(
    async (call) => {
      await call.attach({ eventWindow: { messages: 1, bytes: 1 << 20 } });
      await readEvents(call, 1);
      call.cut();
    },
    async (call) => {
      await call.attach({ maxMessageBytes: 3000 }, 1);
      assert.deepEqual(await readEvents(call, 1), [[2, '"small"']]);
      await endWell(call, 0);
    },
  );
  await using client = clientOf(fake);
  const session = await client.open("app");
  await session.send("e", 1);
  const large = assert.rejects(session.send("e", "x".repeat(3000)), PayloadError);
  const small = session.send("e", "small");
  await Promise.all([large, small]);
  assert.deepEqual(await specsOf(session), []);
});

test("F7: what Limits allows goes both ways, beyond what gRPC libraries take by themselves", async () => {
  const large = "x".repeat(5_000_000);
  await using fake = await FakeServer.start(async (call) => {
    await call.attach({ maxMessageBytes: 6_000_000 });
    const [[, payload] = []] = await readEvents(call, 1);
    assert.equal(payload, `"${large}"`);
    call.write({ firstSequence: 1n, commands: [{ payload: { case: "json", value: `"${large}"` } }] });
    await endWell(call, 1);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  await session.send("e", large);
  assert.deepEqual(await specsOf(session), [large]);
});

test("F7: the largest event and a close with the longest reason are no message that is too large", async () => {
  const maxMessageBytes = 300_000;
  await using fake = await FakeServer.start(async (call) => {
    await call.attach({ maxMessageBytes });
    await call.readUntil(({ control }) => control.case === "close");
    for (const request of call.requests) {
      assert.ok(toBinary(AttachRequestSchema, request).length <= maxMessageBytes);
    }
    await endWell(call, 0);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  let size = maxMessageBytes;
  for (let sent = false; !sent; size -= 16) {
    sent = await session.send("e", "x".repeat(size)).then(
      () => true,
      () => false,
    );
  }
  await session.close({ reason: "\u20ac".repeat(1000) });
});

test("E2: a resumable client half-closes once it has written the ack of closed", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    await endWell(call, 0);
    await call.readAll();
  });
  await using client = clientOf(fake);
  assert.deepEqual(await specsOf(await client.open("app")), []);
  await fake.calls[0]?.over;
});

test("close goes behind the events, acknowledges all, and what came meanwhile can be read", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach({ eventWindow: { messages: 1, bytes: 1 << 20 }, commandWindow: { messages: 4, bytes: 1 << 20 } });
    call.writeCommands(1, 4);
    const close = await call.readUntil(({ control }) => control.case === "close");
    assert.ok(close.control.case === "close");
    assert.deepEqual([close.control.value.reason, close.control.value.now], ["done here", false]);
    assert.deepEqual(call.requests.flatMap(valuesOf), ["1"]);
    call.writeCommands(5, 4); // fits, since all was acknowledged
    await endWell(call, 8);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  await session.send("e", 1);
  const closing = session.close({ reason: "done here" });
  await assert.rejects(session.send("e", 2), SessionEnded);
  assert.deepEqual(await closing, { reason: "COMPLETED", message: "" });
  assert.deepEqual(await specsOf(session), [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.deepEqual(await session.close(), { reason: "COMPLETED", message: "" });
});

test("close now overtakes a graceful close whose wait was aborted", async () => {
  const abort = new AbortController();
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    await call.readUntil(({ control }) => control.case === "close" && !control.value.now);
    abort.abort(new Error("too slow"));
    await call.readUntil(({ control }) => control.case === "close" && control.value.now);
    await endWell(call, 0);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  await assert.rejects(session.close({ signal: abort.signal }), /too slow/);
  assert.equal((await session.close({ now: true })).reason, "COMPLETED");
});

test("close goes again after a cut", async () => {
  await using fake = await FakeServer.start(
    async (call) => {
      await call.attach();
      await call.readUntil(({ control }) => control.case === "close");
      call.reset();
    },
    async (call) => {
      await call.attach();
      const close = await call.readUntil(({ control }) => control.case === "close");
      assert.equal(close.firstSequence, 1n); // behind the event that was not taken over
      await endWell(call, 0);
    },
  );
  await using client = clientOf(fake);
  const session = await client.open("app");
  await session.send("e");
  await session.close();
});

test("closed is acknowledged, and after a cut it is heard again and acknowledged again", async () => {
  await using fake = await FakeServer.start(
    async (call) => {
      await call.attach();
      call.writeClosed(1);
      call.reset();
    },
    async (call) => {
      await call.attach();
      call.writeClosed(1);
      await call.readUntil(({ ack }) => ack === 1n);
      await call.readAll(); // and half-closes
    },
  );
  await using client = clientOf(fake);
  assert.deepEqual(await specsOf(await client.open("app")), []);
  await fake.calls[1]?.over;
});

test("detach waits until all events are taken over, and its position goes on elsewhere", async () => {
  await using fake = await FakeServer.start(
    async (call) => {
      await call.attach();
      call.writeCommands(1, 2);
      await readEvents(call, 1);
      call.write({ ack: 1n });
      assert.equal(await call.over, CANCEL);
    },
    async (call) => {
      const { control } = await call.attach({}, 1);
      assert.ok(control.case === "resume");
      assert.deepEqual([control.value.resumeToken, control.value.received], ["token", 1n]);
      call.writeCommands(2, 1);
      assert.deepEqual(await readEvents(call, 1), [[2, '"next"']]);
      await endWell(call, 2);
    },
  );
  await using one = clientOf(fake);
  const session = await one.open("app");
  assert.equal(await next(session), 1);
  void session.send("e", "first");
  const position = await session.detach();
  assert.deepEqual(position, { id: "s-1", token: "token", received: 1, sent: 1 });
  assert.deepEqual(await session.detach(), position);
  assert.deepEqual(await specsOf(session), []);
  await assert.rejects(session.send("e"), SessionEnded);
  await assert.rejects(session.close(), SessionEnded);
  await using other = clientOf(fake);
  const resumed = await other.resume(JSON.parse(JSON.stringify(position)) as typeof position);
  assert.equal(resumed.takenOver, 1);
  await resumed.send("e", "next");
  assert.deepEqual(await specsOf(resumed), [2]);
});

test("a block that ends closes its session, and one that detached does not", async () => {
  await using fake = await FakeServer.start(
    async (call) => {
      await call.attach();
      await call.readUntil(({ control }) => control.case === "close" && !control.value.now);
      await endWell(call, 0);
    },
    async (call) => {
      await call.attach();
      await call.readAll();
      assert.ok(!call.requests.some(({ control }) => control.case === "close"));
    },
  );
  await using client = clientOf(fake);
  {
    await using session = await client.open("app");
    assert.ok(session.attached);
  }
  {
    await using session = await client.open("app");
    await session.detach();
  }
});

test("heartbeats go when nothing else does, and three intervals of silence break the stream", async () => {
  const heartbeatInterval = durationFromMs(40);
  await using fake = await FakeServer.start(
    async (call) => {
      await call.attach({ heartbeatInterval });
      await call.readUntil(
        ({ control, events, ack }) => control.case === undefined && events.length === 0 && ack === 0n,
      );
      assert.equal(await call.over, CANCEL);
    },
    async (call) => {
      await call.attach();
      await endWell(call, 0);
    },
  );
  await using client = clientOf(fake);
  assert.deepEqual(await specsOf(await client.open("app")), []);
});

test("an attach without an answer is cancelled and tried again", async () => {
  await using fake = await FakeServer.start(
    async (call) => {
      assert.equal(await call.over, CANCEL);
    },
    async (call) => {
      await call.attach();
      await endWell(call, 0);
    },
  );
  await using client = clientOf(fake, { retry: { attachTimeoutMs: 200 } });
  assert.deepEqual(await specsOf(await client.open("app")), []);
});

test("a connection that hangs while it is made is made anew", async () => {
  // Accepts, and never answers the TLS handshake.
  const connections: Socket[] = [];
  const server = createServer((socket) => connections.push(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const abort = new AbortController();
  server.on("connection", () => {
    if (connections.length > 1) abort.abort(new Error("again"));
  });
  await using client = new SessionClient(`127.0.0.1:${String((server.address() as AddressInfo).port)}`, {
    tls: {},
    retry: { ...QUICK, attachTimeoutMs: 50 },
  });
  await assert.rejects(client.open("app", { signal: abort.signal }), /again/);
  await client.close();
  for (const socket of connections) socket.destroy();
  server.close();
});

test("draining is told, and the session goes on", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    call.write({ control: { case: "draining", value: {} } });
    call.writeCommands(1, 1);
    await readEvents(call, 1);
    await endWell(call, 1);
  });
  await using client = clientOf(fake);
  const session = await client.open("app");
  assert.equal(await next(session), 1);
  assert.ok(session.draining);
  await session.send("e");
  assert.deepEqual(await specsOf(session), []);
});

test("a plain session keeps no books", async () => {
  await using fake = await FakeServer.start(async (call) => {
    const { control } = await call.attach({ eventWindow: { messages: 2, bytes: 1 << 20 } });
    assert.ok(control.case === "open");
    const { resumable, requestId, clientId, resumeWindow, commandWindow } = control.value;
    assert.deepEqual(
      [resumable, requestId, clientId, resumeWindow, commandWindow],
      [false, "", "", undefined, undefined],
    );
    const events: unknown[] = [];
    while (events.length < 5) events.push(...valuesOf(await call.readUntil((request) => request.events.length > 0)));
    assert.deepEqual(events, ["0", "1", "2", "3", "4"]);
    const commands = [1, 2].map((value) => ({
      command: "c",
      payload: { case: "json" as const, value: String(value) },
    }));
    call.write({ commands });
    call.write({ commands, control: { case: "closed", value: { reason: CloseReason.COMPLETED } } });
    await call.readAll();
    assert.ok(call.requests.every(({ ack, firstSequence }) => ack === 0n && firstSequence === 0n));
  });
  await using client = clientOf(fake);
  const session = await client.open("app", { plain: true });
  await assert.rejects(session.detach(), SessionEnded);
  for (let i = 0; i < 5; i++) await session.send("e", i);
  assert.deepEqual(await specsOf(session), [1, 2, 1, 2]);
  assert.equal(session.takenOver, 0);
});

test("a plain session that breaks is lost", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    call.reset();
  });
  await using client = clientOf(fake);
  const session = await client.open("app", { plain: true });
  await assert.rejects(specsOf(session), SessionLost);
});

test("a client that is closed leaves its sessions, and ends their waits", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    await call.readAll();
    assert.ok(!call.requests.some(({ control }) => control.case === "close"));
  });
  const client = clientOf(fake);
  const session = await client.open("app");
  const waiting = assert.rejects(specsOf(session), SessionEnded);
  await client.close();
  await client.close();
  await waiting;
  await assert.rejects(client.open("app"), SessionEnded);
});

test("one client has many sessions on one connection", async () => {
  const script: Script = async (call) => {
    await call.attach();
    call.writeCommands(1, 2);
    await endWell(call, 2);
  };
  await using fake = await FakeServer.start(...Array.from({ length: 20 }, () => script));
  await using client = clientOf(fake);
  const sessions = await Promise.all(Array.from({ length: 20 }, () => client.open("app")));
  assert.deepEqual(
    await Promise.all(sessions.map(specsOf)),
    Array.from({ length: 20 }, () => [1, 2]),
  );
});
