/** Opens that are given up leave no app running (protocol A6). */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomInt } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

import { SessionClient, SessionEnded, SessionLost } from "../src/index.js";
import { FakeServer, type FakeCall, type Script } from "./fake.js";
import { Relay } from "./relay.js";
import { NO_SERVER, PROGRAM, Server } from "./server.js";

const QUICK = { initialMs: 5, maximumMs: 20 };
const UNAVAILABLE = 14;
const run = promisify(execFile);

/** Reads an open, and what a client that gives it up says next. */
async function readGivenUp(call: FakeCall, begin?: () => void): Promise<void> {
  const first = await call.read();
  assert.equal(first?.control.case, "open");
  begin?.();
  const next = await call.read();
  assert.ok(next?.control.case === "close" && next.control.value.now);
  assert.equal(await call.read(), undefined); // it has half-closed
}

test("A6: an open that is aborted closes at once on its stream, and half-closes", async () => {
  const abort = new AbortController();
  await using fake = await FakeServer.start(async (call) => {
    await readGivenUp(call, () => {
      abort.abort(new Error("enough"));
    });
    await answer(call);
  });
  await using client = new SessionClient(fake.address, { retry: QUICK });
  await assert.rejects(client.open("app", { signal: abort.signal }), /enough/);
  await assert.rejects(client.open("app", { signal: abort.signal }), /enough/); // which goes nowhere
  await client.close();
  assert.equal(fake.calls.length, 1);
});

async function answer(call: FakeCall): Promise<void> {
  call.write({ control: { case: "opened", value: { sessionId: "s-1", resumeToken: "token" } } });
  call.writeClosed(1);
}

const UNANSWERED: Record<string, Script> = {
  "whose stream breaks": async (call) => {
    call.reset();
  },
  "whose connection breaks": async (call) => {
    call.cut();
  },
  "whose stream ends": async (call) => {
    call.end(UNAVAILABLE);
  },
};

for (const [what, breaks] of Object.entries(UNANSWERED)) {
  test(`A6: an aborted open ${what} is repeated once, and closed then`, async () => {
    const abort = new AbortController();
    await using fake = await FakeServer.start(
      async (call) => {
        await readGivenUp(call, () => {
          abort.abort(new Error("enough"));
        });
        await breaks(call);
      },
      async (call) => {
        await readGivenUp(call);
        await breaks(call);
      },
    );
    await using client = new SessionClient(fake.address, { retry: QUICK });
    await assert.rejects(client.open("app", { signal: abort.signal }), /enough/);
    await client.close(); // waits for it
    assert.equal(fake.calls.length, 2);
    assert.deepEqual(fake.calls[0]?.requests[0], fake.calls[1]?.requests[0]); // with the same ids
  });
}

test("A6: an open that is aborted between two tries is repeated once, and closed", async () => {
  const abort = new AbortController();
  await using fake = await FakeServer.start(
    async (call) => {
      await call.read();
      call.end(UNAVAILABLE);
    },
    async (call) => {
      await readGivenUp(call);
      await answer(call);
    },
  );
  const retry = { initialMs: 2 ** 30, maximumMs: 2 ** 30, totalMs: 2 ** 40 };
  const onAttachment = () => {
    abort.abort(new Error("enough"));
  };
  await using client = new SessionClient(fake.address, { retry, onAttachment });
  await assert.rejects(client.open("app", { signal: abort.signal }), /enough|not opened/);
  await client.close();
  assert.equal(fake.calls.length, 2);
});

test("A6: a client that is closed before its open was answered closes the session", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await readGivenUp(call, () => void client.close());
    await answer(call);
  });
  const client = new SessionClient(fake.address, { retry: QUICK });
  await assert.rejects(client.open("app"), SessionEnded);
  await client.close();
  assert.equal(fake.calls.length, 1);
});

test("A6: an open whose patience is over is repeated once, and closed", async () => {
  let closed = 0;
  const lost: Script = async (call) => {
    await call.read();
    const next = await Promise.race([call.read(), sleep(20)]);
    if (next?.control.case === "close" && next.control.value.now) closed += 1;
    call.reset();
  };
  await using fake = await FakeServer.start(...Array.from({ length: 1000 }, () => lost));
  await using client = new SessionClient(fake.address, { retry: { ...QUICK, totalMs: 100 } });
  await assert.rejects(client.open("app"), SessionLost);
  await client.close();
  assert.equal(closed, 1);
});

test("a plain open that is aborted is cancelled, which ends it", async () => {
  const abort = new AbortController();
  await using fake = await FakeServer.start(async (call) => {
    await call.read();
    abort.abort(new Error("enough"));
    assert.equal(await call.over, 8); // CANCEL, of HTTP/2
  });
  await using client = new SessionClient(fake.address, { retry: QUICK });
  await assert.rejects(client.open("app", { plain: true, signal: abort.signal }), /enough/);
  await fake.calls[0]?.over;
});

test("of 57 opens that are given up at random moments no app is left", { skip: NO_SERVER }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "session-service-"));
  t.after(() => rm(folder, { recursive: true }));
  const admin = `unix:${join(folder, "admin")}`;
  await using server = await Server.start("127.0.0.1:0", "--admin-listen", admin);
  await using relay = await Relay.start(server.address);
  await using client = new SessionClient(relay.address, { retry: QUICK });
  const opens = Array.from({ length: 57 }, async (_, index) => {
    await sleep(randomInt(200));
    if (index === 30) relay.cut();
    // A page that is mounted and left: a session that was opened all the same is its own to close.
    const session = await client.open("echo", { signal: AbortSignal.timeout(randomInt(20)) });
    await session.close();
  });
  const outcomes = await Promise.allSettled(opens);
  for (const outcome of outcomes) {
    if (outcome.status === "rejected") assert.equal((outcome.reason as Error).name, "TimeoutError");
  }
  assert.ok(outcomes.some(({ status }) => status === "rejected"));
  await client.close();
  for (const state of ["attached", "detached"]) {
    const list = ["sessions", "list", "--admin", admin, "--json", "--state", state];
    let running = "?";
    while (running !== "") running = (await run(PROGRAM, list)).stdout; // an app may need a moment to be cancelled
  }
});
