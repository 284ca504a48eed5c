/** What the client makes of servers that refuse, misbehave or go away. */
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  SessionClient,
  SessionClientError,
  SessionLost,
  SessionRefused,
  TakenOver,
  type Attachment,
  type ClientOptions,
} from "../src/index.js";
import { FakeServer, type FakeCall, type Script } from "./fake.js";

const QUICK = { initialMs: 5, maximumMs: 20, totalMs: 20_000, attachTimeoutMs: 10_000 };

const OK = 0;
const CANCEL = 8; // of HTTP/2
const [INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED] = [3, 5, 7, 8];
const [FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED] = [
  9, 10, 11, 12, 13, 14, 16,
];

/** Attaches, and ends the session, which had one command. */
async function endWell(call: FakeCall): Promise<void> {
  await call.attach();
  call.writeCommands(1, 1);
  call.writeClosed(2);
  await call.readUntil(({ ack }) => ack === 2n);
}

function end(code: number): Script {
  return async (call) => {
    await call.attach();
    call.end(code);
  };
}

function refuse(
  reason: string,
  retry: string | undefined,
  code: number,
  more: Parameters<FakeCall["refuse"]>[3] & { attached?: boolean } = {},
): Script {
  return async (call) => {
    if (more.attached ?? true) await call.attach();
    else await call.read();
    call.refuse(reason, retry, code, more);
  };
}

/** Takes all commands. */
async function talk(
  fake: FakeServer,
  { plain = false, ...options }: ClientOptions & { plain?: boolean } = {},
): Promise<unknown[]> {
  await using client = new SessionClient(fake.address, { ...options, retry: { ...QUICK, ...options.retry } });
  const session = await client.open("app", { plain });
  const specs: unknown[] = [];
  for await (const command of session) specs.push(command.spec);
  return [...specs, session.closed?.reason];
}

const WELL = [1, "COMPLETED"];

for (const code of [OK, 1, 2, 4, ABORTED, OUT_OF_RANGE, INTERNAL, UNAVAILABLE, 15]) {
  test(`a stream that ends with status ${String(code)} and without closed is resumed`, async () => {
    await using fake = await FakeServer.start(end(code), endWell);
    assert.deepEqual(await talk(fake), WELL);
  });
}

for (const [code, name] of [
  [INVALID_ARGUMENT, "INVALID_ARGUMENT"],
  [NOT_FOUND, "NOT_FOUND"],
  [PERMISSION_DENIED, "PERMISSION_DENIED"],
  [FAILED_PRECONDITION, "FAILED_PRECONDITION"],
  [UNIMPLEMENTED, "UNIMPLEMENTED"],
] as const) {
  test(`without an ErrorInfo ${name} is final, and with RESUME it is not`, async () => {
    await using fake = await FakeServer.start(refuse("R", "RESUME", code), end(code));
    await assert.rejects(
      talk(fake),
      (error: unknown) => error instanceof SessionRefused && error.code === name && error.reason === "",
    );
    assert.equal(fake.calls.length, 2);
  });
}

test("D7: without an ErrorInfo RESOURCE_EXHAUSTED is final before the first opened, and not after it", async () => {
  await using full = await FakeServer.start(async (call) => {
    await call.read();
    call.end(RESOURCE_EXHAUSTED);
  });
  await assert.rejects(
    talk(full),
    (error: unknown) => error instanceof SessionRefused && error.code === "RESOURCE_EXHAUSTED",
  );
  assert.equal(full.calls.length, 1);
  const notNow: Script = async (call) => {
    await call.read();
    call.end(RESOURCE_EXHAUSTED);
  };
  await using fake = await FakeServer.start(end(RESOURCE_EXHAUSTED), notNow, endWell);
  assert.deepEqual(await talk(fake), WELL);
});

test("D7: nor is RESOURCE_EXHAUSTED final where a session is resumed by another client", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.read();
    call.end(RESOURCE_EXHAUSTED);
  }, endWell);
  await using client = new SessionClient(fake.address, { retry: QUICK });
  const session = await client.resume({ id: "s-1", token: "token", received: 0, sent: 0 });
  await session.close();
});

for (const retry of ["NEVER", "WHENEVER", undefined]) {
  test(`retry ${String(retry)} is told to the application, whatever the status`, async () => {
    await using fake = await FakeServer.start(refuse("R", retry, UNAVAILABLE, { metadata: { key: "value" } }));
    await assert.rejects(talk(fake), (error: unknown) => {
      assert.ok(error instanceof SessionRefused && !(error instanceof TakenOver));
      assert.deepEqual([error.code, error.reason, error.details["key"]], ["UNAVAILABLE", "R", "value"]);
      return true;
    });
  });
}

test("an ErrorInfo of somebody else does not count", async () => {
  await using fake = await FakeServer.start(refuse("R", "NEVER", UNAVAILABLE, { domain: "example.com" }), endWell);
  assert.deepEqual(await talk(fake), WELL);
});

test("REOPEN before the first opened opens again, with the same ids", async () => {
  await using fake = await FakeServer.start(refuse("DRAINING", "REOPEN", UNAVAILABLE, { attached: false }), endWell);
  assert.deepEqual(await talk(fake), WELL);
  assert.deepEqual(fake.calls[0]?.requests[0], fake.calls[1]?.requests[0]);
});

test("an unknown session before the first opened has run, and is lost", async () => {
  await using fake = await FakeServer.start(refuse("SESSION_NOT_FOUND", "REOPEN", NOT_FOUND, { attached: false }));
  await assert.rejects(talk(fake), SessionLost);
});

test("REOPEN after opened is a lost session, which says how far it got, and is never opened again", async () => {
  await using fake = await FakeServer.start(
    refuse("RESUME_IMPOSSIBLE", "REOPEN", OUT_OF_RANGE, { metadata: { received: "7" } }),
  );
  await assert.rejects(talk(fake), (error: unknown) => error instanceof SessionLost && error.takenOver === 7);
  assert.equal(fake.calls.length, 1);
});

for (const received of ["", "-1", "1e3", "seven", "9".repeat(21)]) {
  test(`${received || "nothing"} as the last event taken over is not believed`, async () => {
    await using fake = await FakeServer.start(refuse("R", "NEVER", ABORTED, { metadata: { received } }));
    await assert.rejects(talk(fake), (error: unknown) => error instanceof SessionRefused && error.takenOver === 0);
  });
}

test("taken over by another client is an error of its own", async () => {
  await using fake = await FakeServer.start(refuse("TAKEN_OVER", "NEVER", ABORTED, { metadata: { received: "3" } }));
  await assert.rejects(talk(fake), (error: unknown) => error instanceof TakenOver && error.takenOver === 3);
});

test("taken over by a late stream of this client is taken back, under the same client id", async () => {
  await using fake = await FakeServer.start(refuse("TAKEN_OVER", "RESUME", ABORTED), endWell);
  assert.deepEqual(await talk(fake), WELL);
  const ids = fake.calls.map(({ requests }) => (requests[0]?.control.value as { clientId: string }).clientId);
  assert.equal(ids[0], ids[1]);
});

for (const plain of [false, true]) {
  for (const attached of [true, false]) {
    test(`E2: failed ${attached ? "after" : "before"} the answer is obeyed over the status, ${plain ? "plain" : "resumable"}`, async () => {
      await using fake = await FakeServer.start(async (call) => {
        if (attached) await call.attach();
        else await call.read();
        call.fail("TAKEN_OVER", "NEVER", ABORTED, { metadata: { received: "3" } });
        await call.readAll(); // which half-closes
        call.reset(); // as a proxy that has lost the status
      });
      await assert.rejects(
        talk(fake, { plain }),
        (error: unknown) => error instanceof TakenOver && error.takenOver === 3,
      );
      assert.equal(fake.calls.length, 1);
    });
  }
}

test("E2: a failed that says RESUME is resumed from, also where the status never comes", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    call.fail("INTERNAL", "RESUME", INTERNAL);
    assert.equal(await call.over, CANCEL);
  }, endWell);
  assert.deepEqual(await talk(fake), WELL);
});

test("E2: a failed that does not decode says nothing", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    call.write({ control: { case: "failed", value: { status: new Uint8Array([0xff]) } } });
    call.refuse("R", "NEVER", ABORTED);
  });
  await assert.rejects(talk(fake), /^SessionRefused: R: /);
});

test("E2: a plain session half-closes when it sees closed, and is well whatever the status", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    call.writeCommands(0, 1);
    call.writeClosed(0);
    await call.readAll();
    call.reset();
  });
  assert.deepEqual(await talk(fake, { plain: true }), [0, "COMPLETED"]);
});

test("the client waits as long as the server asks", async () => {
  const waits: (number | undefined)[] = [];
  await using fake = await FakeServer.start(
    refuse("SESSION_LIMIT", "REOPEN", RESOURCE_EXHAUSTED, { attached: false, delayMs: 150 }),
    endWell,
  );
  const onAttachment = ({ state, retryInMs }: Attachment) => {
    if (state === "lost") waits.push(retryInMs);
  };
  assert.deepEqual(await talk(fake, { onAttachment }), WELL);
  assert.deepEqual(waits, [150]);
});

test("a wait beyond the time limit is an error at once", async () => {
  await using fake = await FakeServer.start(
    refuse("SESSION_LIMIT", "REOPEN", RESOURCE_EXHAUSTED, { attached: false, delayMs: 3_600_000 }),
  );
  await assert.rejects(talk(fake), /not opened, as far as is known, within/);
});

test("a server that is never there is told as an error", async () => {
  const fake = await FakeServer.start();
  const { address } = fake;
  await fake[Symbol.asyncDispose]();
  await using client = new SessionClient(address, { retry: { ...QUICK, totalMs: 100 } });
  await assert.rejects(client.open("app"), SessionLost);
  await assert.rejects(client.open("app", { plain: true }), SessionLost);
});

test("UNAUTHENTICATED is tried once more with fresh credentials, and twice in a row is final", async () => {
  const unauthenticated = refuse("UNAUTHENTICATED", "RESUME", UNAUTHENTICATED, { attached: false });
  const tokens = ["one", "two", "three"];
  const credentials = () => ({ authorization: tokens.shift() ?? "none" });
  await using fake = await FakeServer.start(unauthenticated, endWell);
  assert.deepEqual(await talk(fake, { credentials }), WELL);
  assert.deepEqual(
    fake.calls.map(({ headers }) => headers.authorization),
    ["one", "two"],
  );
  await using strict = await FakeServer.start(end(UNAUTHENTICATED), unauthenticated, unauthenticated);
  await assert.rejects(
    talk(strict, { credentials: () => Promise.resolve({}) }),
    (error: unknown) => error instanceof SessionRefused && error.code === "UNAUTHENTICATED",
  );
  assert.equal(strict.calls.length, 2);
});

test("UNAUTHENTICATED now and then is not final", async () => {
  await using fake = await FakeServer.start(end(UNAUTHENTICATED), end(UNAVAILABLE), end(UNAUTHENTICATED), endWell);
  assert.deepEqual(await talk(fake), WELL);
});

test("credentials that fail, or are none, end the session with their error", async () => {
  await using fake = await FakeServer.start();
  const failing: ClientOptions["credentials"][] = [
    () => Promise.reject(new Error("no token")),
    () => {
      throw new Error("no token");
    },
    () => ({ authorization: 5 }) as unknown as Record<string, string>,
    () => ({ "not a header": "x" }),
  ];
  for (const credentials of failing) {
    await assert.rejects(talk(fake, { ...(credentials && { credentials }) }), /asking for credentials failed/);
  }
  const credentials: ClientOptions["credentials"] = ({ signal }) =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => {
        reject(new Error("aborted"));
      });
    });
  await assert.rejects(talk(fake, { credentials, retry: { attachTimeoutMs: 50 } }), /no answer within 50 ms|aborted/);
  assert.equal(fake.calls.length, 0);
});

const BAD_RESPONSES: Record<string, (call: FakeCall) => void> = {
  "a gap": (call) => {
    call.writeCommands(2, 1);
  },
  "closed behind a gap": (call) => {
    call.writeClosed(3);
  },
  "an ack of what was not sent": (call) => {
    call.write({ ack: 1n });
  },
  "what is no message": (call) => {
    call.writeBytes(new Uint8Array([0xff, 0xff]));
  },
  "what is no JSON": (call) => {
    call.write({ firstSequence: 1n, commands: [{ payload: { case: "json", value: "{" } }] });
  },
};

for (const [what, write] of Object.entries(BAD_RESPONSES)) {
  const bad: Script = async (call) => {
    await call.attach();
    write(call);
    await call.over; // the client cancels it
  };

  test(`${what} breaks the stream, and the second time at the same place is final`, async () => {
    await using fake = await FakeServer.start(bad, bad);
    await assert.rejects(
      talk(fake),
      (error: unknown) => error instanceof SessionRefused && ["DATA_LOSS", "OUT_OF_RANGE"].includes(error.code),
    );
    assert.equal(fake.calls.length, 2);
  });

  test(`${what} that comes right on the next stream is forgotten`, async () => {
    await using fake = await FakeServer.start(bad, end(UNAVAILABLE), bad, endWell);
    assert.deepEqual(await talk(fake), WELL);
    assert.equal(await fake.calls[0]?.over, CANCEL);
  });
}

test("a message that is cut short is a broken stream, and resumed", async () => {
  await using fake = await FakeServer.start(async (call) => {
    await call.attach();
    call.writeRaw(new Uint8Array([0, 0, 0, 0, 9, 1]));
    call.end(OK);
  }, endWell);
  assert.deepEqual(await talk(fake), WELL);
});

test("a first answer that is none is a bad response", async () => {
  const bad: Script = async (call) => {
    await call.read();
    call.write({ control: { case: "resumed", value: {} } });
    await call.over;
  };
  await using fake = await FakeServer.start(bad, bad);
  await assert.rejects(talk(fake), /began with resumed/);
});

test("a server that takes back an ack is not believed", async () => {
  const taken: Script = async (call) => {
    await call.attach();
    await call.readUntil(({ events }) => events.length > 0);
    call.write({ ack: 1n });
    call.end(UNAVAILABLE);
  };
  const forgetful: Script = async (call) => {
    await call.attach({}, 0);
    await call.readAll();
  };
  await using fake = await FakeServer.start(taken, forgetful, forgetful);
  await using client = new SessionClient(fake.address, { retry: QUICK });
  const session = await client.open("app");
  await session.send("e");
  await assert.rejects(session[Symbol.asyncIterator]().next(), /cannot go on after 0/);
});

for (const [retry, attached] of [
  ["RESUME", true],
  ["REOPEN", true],
  ["RESUME", false],
] as const) {
  test(`a plain session that is told to ${retry} ${attached ? "after" : "before"} opened is lost`, async () => {
    await using fake = await FakeServer.start(refuse("R", retry, UNAVAILABLE, { attached }));
    await assert.rejects(talk(fake, { plain: true }), SessionLost);
  });
}

test("a plain open that was refused for now is repeated", async () => {
  await using fake = await FakeServer.start(
    refuse("SESSION_LIMIT", "REOPEN", RESOURCE_EXHAUSTED, { attached: false }),
    async (call) => {
      await call.attach();
      call.writeCommands(0, 1);
      call.writeClosed(0);
    },
  );
  assert.deepEqual(await talk(fake, { plain: true }), [0, "COMPLETED"]);
});

test("a hook that throws harms nothing", async () => {
  const warnings: string[] = [];
  process.on("warning", ({ message }) => warnings.push(message));
  await using fake = await FakeServer.start(endWell);
  const onAttachment = () => {
    throw new Error("of the hook");
  };
  assert.deepEqual(await talk(fake, { onAttachment }), WELL);
  assert.ok(warnings.some((message) => message.includes("of the hook")));
});

test("leaving tells an error that no call has told, and is quiet about one that the application has caught", async () => {
  const fail = refuse("R", "NEVER", ABORTED);
  await using fake = await FakeServer.start(fail, fail);
  await using client = new SessionClient(fake.address, { retry: QUICK });
  const untold = await client.open("app");
  await assert.rejects(async () => {
    while (untold.attached) await new Promise(setImmediate);
    await untold[Symbol.asyncDispose]();
  }, SessionRefused);
  const told = await client.open("app");
  await assert.rejects(told.close(), SessionClientError);
  await told[Symbol.asyncDispose]();
});
