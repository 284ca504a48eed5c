/** The client, its examples and its driver, with the real server. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";

import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import { InstructionSchema, ObservationSchema } from "../src/gen/session_service/conformance/v1/conformance_pb.js";
import { SessionClient, SessionRefused, TakenOver } from "../src/index.js";
import { Relay } from "./relay.js";
import { NO_SERVER, PACKAGE, Server } from "./server.js";

const QUICK = { initialMs: 5, maximumMs: 20 };
const run = promisify(execFile);

describe("with the real server", { skip: NO_SERVER }, () => {
  let server: Server;

  before(async () => {
    server = await Server.start();
  });
  after(async () => {
    await server[Symbol.asyncDispose]();
  });

  for (const plain of [false, true]) {
    test(`a ${plain ? "plain" : "resumable"} session says everything back, unchanged`, async () => {
      await using client = new SessionClient(server.address);
      const session = await client.open("echo", { plain });
      const values = [null, true, "é😀", 1.5, -7, 2n ** 63n, [], {}, { a: [{ b: null }] }, new Uint8Array([0, 255])];
      for (const value of values) await session.send("say", value);
      const echoed: unknown[] = [];
      for await (const { spec } of session) {
        echoed.push(spec instanceof Uint8Array ? new Uint8Array(spec) : spec);
        if (echoed.length === values.length) break;
      }
      assert.deepStrictEqual(echoed, values);
      assert.deepEqual(await session.close(), { reason: "CLIENT", message: "" });
    });
  }

  test("a conversation with thirty cuts reads like one without", async () => {
    const count = 600;
    let cuts = 0;
    await using relay = await Relay.start(server.address);
    await using client = new SessionClient(relay.address, {
      retry: QUICK,
      onAttachment: ({ state }) => (cuts += state === "resumed" ? 1 : 0),
    });
    await using session = await client.open("echo");
    const sending = (async () => {
      for (let i = 0; i < count; i++) await session.send("say", i);
    })();
    const echoed: unknown[] = [];
    for await (const { spec } of session) {
      echoed.push(spec);
      if (echoed.length % (count / 30) === 0) relay.cut();
      if (echoed.length === count) break;
    }
    await sending;
    assert.deepEqual(
      echoed,
      Array.from({ length: count }, (_, i) => i),
    );
    await session.close();
    assert.ok(cuts > 0);
  });

  test("megabytes go both ways through the windows", async () => {
    await using client = new SessionClient(server.address);
    await using session = await client.open("echo");
    const text = "x".repeat(100_000);
    const sending = (async () => {
      for (let i = 0; i < 60; i++) await session.send("say", text);
    })();
    let echoed = 0;
    for await (const { spec } of session) {
      assert.equal(spec, text);
      if (++echoed === 60) break;
    }
    await sending;
  });

  test("a position goes on in another client, and the one that stayed is told", async () => {
    await using one = new SessionClient(server.address);
    await using other = new SessionClient(server.address);
    const session = await one.open("echo");
    await session.send("say", 1);
    for await (const { spec } of session) {
      assert.equal(spec, 1);
      break;
    }
    const resumed = await other.resume(session.position);
    await assert.rejects(session[Symbol.asyncIterator]().next(), TakenOver);
    await resumed.send("say", 2);
    for await (const { spec } of resumed) {
      assert.equal(spec, 2);
      break;
    }
    assert.equal((await resumed.close()).reason, "CLIENT");
  });

  test("a unix socket is an address too", async (t) => {
    const folder = await mkdtemp(join(tmpdir(), "session-service-"));
    t.after(() => rm(folder, { recursive: true }));
    await using local = await Server.start(`unix:${join(folder, "socket")}`);
    await using client = new SessionClient(local.address);
    await using session = await client.open("echo");
    assert.ok(session.attached);
  });

  test("more sessions than streams per connection are open at once, over further connections", async () => {
    await using narrow = await Server.start("127.0.0.1:0", "--max-connection-streams", "10");
    const states = new Set<string>();
    await using client = new SessionClient(narrow.address, { onAttachment: ({ state }) => states.add(state) });
    const sessions = await Promise.all(Array.from({ length: 35 }, () => client.open("echo")));
    for (const [index, session] of sessions.entries()) await session.send("say", index);
    for (const [index, session] of sessions.entries()) {
      for await (const { spec } of session) {
        assert.equal(spec, index);
        break;
      }
    }
    await Promise.all(sessions.map((session) => session.close()));
    await using another = await client.open("echo");
    assert.ok(another.attached);
    assert.deepEqual([...states], ["attached"]); // none has waited until its try was over
  });

  test("messages as large as the server allows go both ways", async () => {
    const options = ["--max-message-bytes", "8000000"];
    await using wide = await Server.start("127.0.0.1:0", ...options);
    await using client = new SessionClient(wide.address);
    await using session = await client.open("echo");
    const text = "x".repeat(5_000_000);
    await session.send("say", text);
    for await (const { spec } of session) {
      assert.equal(spec, text);
      break;
    }
  });

  test("metadata of any size reaches the server, which says that it is too much", async () => {
    const credentials = () => ({ authorization: "x".repeat(120_000) });
    await using client = new SessionClient(server.address, { credentials });
    await assert.rejects(
      client.open("echo"),
      (error: unknown) => error instanceof SessionRefused && error.code === "RESOURCE_EXHAUSTED",
    );
  });

  test("a refusal says why", async () => {
    await using client = new SessionClient(server.address);
    await assert.rejects(
      client.open("nothing"),
      (error: unknown) =>
        error instanceof SessionRefused && error.reason === "APP_NOT_FOUND" && error.code === "NOT_FOUND",
    );
  });

  for (const [example, expected] of [
    ["plain", /^echo hello$/m],
    ["greet", /^Hello Ada, 36 is a fine age!\ncompleted$/im],
    ["resume", /^going on after 2\n3\n4\nCLIENT$/m],
  ] as const) {
    test(`the example ${example} runs and ends by itself`, async () => {
      const file = join(PACKAGE, "build", "examples", `${example}.js`);
      const { stdout } = await run(process.execPath, [file, server.address], { timeout: 30_000 });
      assert.match(stdout, expected);
    });
  }

  test("the conformance driver does what it is told", async () => {
    const driver = spawn(process.execPath, [join(PACKAGE, "build", "src", "conformance", "driver.js")], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const instructions: NonNullable<MessageInitShape<typeof InstructionSchema>["instruction"]>[] = [
      { case: "connect", value: { address: server.address } },
      { case: "open", value: { app: "echo" } },
      { case: "send", value: { event: "say", payload: { case: "json", value: "[9007199254740993]" }, count: 2 } },
      { case: "receive", value: { count: 2 } },
      { case: "receive", value: { cancelAfter: durationFromMs(20) } },
      { case: "send", value: { event: "say", payload: { case: "json", value: '{"a": NaN}' } } },
      { case: "savePosition", value: {} },
      { case: "close", value: { reason: "done" } },
      { case: undefined },
    ];
    for (const instruction of instructions) {
      const data = toBinary(InstructionSchema, create(InstructionSchema, { instruction }));
      const length = Buffer.alloc(4);
      length.writeUInt32BE(data.length);
      driver.stdin.write(Buffer.concat([length, data]));
    }
    driver.stdin.end();
    let output = Buffer.alloc(0);
    for await (const chunk of driver.stdout) output = Buffer.concat([output, chunk as Buffer]);
    const told = [];
    for (let at = 0; at < output.length; at += 4 + output.readUInt32BE(at)) {
      told.push(fromBinary(ObservationSchema, output.subarray(at + 4, at + 4 + output.readUInt32BE(at))).observation);
    }
    assert.deepEqual(
      told.map((observation) => observation.case),
      ["done", "opened", "done", "received", "received", "error", "position", "received", "unsupported"],
    );
    const [, , , two, cancelled, error, position, end] = told;
    assert.ok(two?.case === "received" && cancelled?.case === "received" && end?.case === "received");
    assert.deepEqual(
      two.value.commands.map(({ payload }) => payload.value),
      ["[9007199254740993]", "[9007199254740993]"],
    );
    assert.ok(cancelled.value.cancelled);
    assert.ok(error?.case === "error");
    assert.match(error.value.message, /data\.a: NaN/);
    assert.ok(position?.case === "position");
    assert.deepEqual([position.value.received, position.value.sent], [2n, 2n]);
    assert.equal(end.value.closed?.reason, "CLIENT");
  });
});
