/** How long a session goes on, by a clock of the test's own (protocol D7). */
import assert from "node:assert/strict";
import { test } from "node:test";

import { Retries, type Decision } from "../src/retry.js";

const POLICY = { initialMs: 200, maximumMs: 10_000, totalMs: 120_000, attachTimeoutMs: 10_000 };
const UNTOLD = { told: false, askedMs: 0 };

/** Retries with the longest delays, and a clock. */
class Path {
  now = 1_000_000;
  readonly retries: Retries;

  constructor({ opened = true, random = 1 } = {}) {
    this.retries = new Retries(POLICY, this.now, opened, () => random);
  }

  /** A stream that is attached, writes events up to `written` and breaks after `ms`; waits as long as it shall. */
  stream({ idle = false, written = 0, ms = 0, heartbeatMs = 25_000, told = false, attached = true } = {}): Decision {
    if (attached) this.retries.attached(this.now, { idle, heartbeatMs });
    if (written > 0) this.retries.written(this.now, written);
    this.now += ms;
    const decision = this.retries.broke(this.now, { told, askedMs: 0 });
    if (decision.action === "retry") this.now += decision.delayMs;
    return decision;
  }

  /** How many milliseconds go by until it gives up on streams like this, and how. */
  giveUp(stream: Parameters<Path["stream"]>[0]): { action: string; afterMs: number } {
    const start = this.now;
    for (let tries = 0; tries < 1000; tries++) {
      const { action } = this.stream(stream);
      if (action !== "retry") return { action, afterMs: this.now - start };
    }
    return { action: "never", afterMs: this.now - start };
  }
}

function delayOf(decision: Decision): number | undefined {
  return decision.action === "retry" ? decision.delayMs : undefined;
}

test("D7: the delays double up to their maximum, with full jitter", () => {
  for (const random of [1, 0.5, 0]) {
    const path = new Path({ random });
    const delays = Array.from({ length: 8 }, () => delayOf(path.stream({ attached: false })));
    assert.deepEqual(
      delays,
      [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000].map((most) => most * random),
    );
  }
});

test("D7: a delay is at least what the server asks for", () => {
  const { retries, now } = new Path();
  assert.deepEqual(retries.broke(now, { told: true, askedMs: 5000 }), { action: "retry", delayMs: 5000 });
});

for (const [what, progress, starts] of [
  [
    "an ack that advanced",
    (path: Path) => {
      path.retries.acked(path.now, 1);
    },
    true,
  ],
  [
    "a new command",
    (path: Path) => {
      path.retries.progressed(path.now);
    },
    true,
  ],
  [
    "a stream that lived for 25 s",
    (path: Path) => {
      path.now += 25_000;
    },
    true,
  ],
  [
    "a stream that lived for less",
    (path: Path) => {
      path.now += 24_999;
    },
    false,
  ],
  ["to be attached", () => undefined, false],
] as const) {
  test(`D7: ${what} is ${starts ? "" : "no "}progress, at which the back-off starts anew`, () => {
    const path = new Path();
    for (let i = 0; i < 3; i++) path.stream();
    path.retries.attached(path.now, { idle: false, heartbeatMs: 60_000 });
    progress(path);
    assert.deepEqual(path.retries.broke(path.now, UNTOLD), { action: "retry", delayMs: starts ? 200 : 1600 });
  });
}

test("D7: a stream that lived for a heartbeat interval is progress where that is shorter", () => {
  const path = new Path();
  assert.equal(delayOf(path.stream({ heartbeatMs: 1000, ms: 1000 })), 200);
  assert.equal(delayOf(path.stream({ heartbeatMs: 1000, ms: 1000 })), 200);
  assert.equal(delayOf(path.stream({ heartbeatMs: 1000, ms: 999 })), 400);
});

test("D7: patience ends with what was tried, and sooner before the first opened", () => {
  assert.equal(new Path().giveUp({ attached: false }).action, "lose");
  assert.ok(new Path().giveUp({ attached: false }).afterMs > 100_000);
  assert.ok(new Path({ opened: false }).giveUp({ attached: false }).afterMs <= 60_000);
});

test("D7: an idle session that is cut again and again is never lost, and one with an event is", () => {
  for (const ms of [50, 20_000]) {
    assert.equal(new Path().giveUp({ idle: true, ms }).action, "never");
    assert.equal(new Path().giveUp({ ms }).action, "lose");
  }
  assert.equal(new Path().giveUp({ ms: 25_000 }).action, "never"); // such a stream is progress
});

test("D7: an event at which streams break is held back after the third, and given up at the fifth", () => {
  const path = new Path();
  const held: number[] = [];
  const actions: string[] = [];
  for (let i = 0; i < 5; i++) {
    held.push(path.retries.attached(path.now, { idle: false, heartbeatMs: 25_000 }));
    path.retries.written(path.now, 7);
    path.now += 5000;
    actions.push(path.retries.broke(path.now, UNTOLD).action);
  }
  assert.deepEqual(held, [0, 0, 0, 5000, 0]);
  assert.deepEqual(actions, ["retry", "retry", "retry", "retry", "poisoned"]);
});

for (const [what, between, poisoned] of [
  ["a refused connection does not count", { attached: false }, true],
  ["a stream that breaks before the event is written", {}, false],
  ["a break later than 5 s after it", { written: 7, ms: 5001 }, false],
  ["a break that an ErrorInfo explains", { written: 7, told: true }, false],
] as const) {
  test(`D7: ${what}${poisoned ? "" : " lets the count start anew"}`, () => {
    const path = new Path();
    for (let i = 0; i < 4; i++) assert.equal(path.stream({ written: 7 }).action, "retry");
    assert.equal(path.stream(between).action, "retry");
    assert.equal(path.stream({ written: 7 }).action, poisoned ? "poisoned" : "retry");
  });
}

test("D7: another first unacknowledged event starts the count anew, on the same stream or by Resumed.received", () => {
  const path = new Path();
  for (let i = 0; i < 4; i++) path.stream({ written: 7 });
  path.retries.acked(path.now, 6);
  for (let i = 0; i < 4; i++) assert.equal(path.stream({ written: 7 }).action, "retry");
  path.retries.attached(path.now, { idle: false, heartbeatMs: 25_000 });
  path.retries.written(path.now, 7);
  path.retries.acked(path.now, 7);
  assert.equal(path.retries.broke(path.now, UNTOLD).action, "retry");
  assert.equal(path.stream({ written: 8 }).action, "retry");
});

test("D7: what counts is when the first unacknowledged event was written, not a later one", () => {
  const path = new Path();
  for (let i = 0; i < 10; i++) {
    path.retries.attached(path.now, { idle: false, heartbeatMs: 25_000 });
    path.retries.written(path.now, 7);
    path.now += 6000;
    path.retries.written(path.now, 8);
    assert.equal(path.retries.broke(path.now, UNTOLD).action, "retry");
  }
});
