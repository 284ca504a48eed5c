import assert from "node:assert/strict";
import { test } from "node:test";

import { Inbox } from "../src/delivery/inbox.js";
import { Outbox } from "../src/delivery/outbox.js";
import { SequenceGap, Violation } from "../src/delivery/violation.js";
import { fits, hasRoom, type Window } from "../src/delivery/window.js";

const WIDE: Window = { messages: 100, bytes: 1000 };

function outboxOf(count: number, window: Window = WIDE): Outbox<string> {
  const outbox = new Outbox<string>(window);
  for (let i = 1; i <= count; i++) outbox.append(`e${String(i)}`, 10);
  return outbox;
}

function inboxOf(count: number, window: Window = WIDE): Inbox<string> {
  const inbox = new Inbox<string>(window);
  for (let i = 1; i <= count; i++) inbox.put(`c${String(i)}`, 10);
  return inbox;
}

test("a window has room below both its numbers", () => {
  const window = { messages: 2, bytes: 100 };
  assert.ok(hasRoom(window, 1, 99));
  assert.ok(!hasRoom(window, 2, 0));
  assert.ok(!hasRoom(window, 0, 100));
});

test("the first element fits whatever its size, the next ones only within both numbers", () => {
  const window = { messages: 2, bytes: 100 };
  assert.ok(fits(window, 0, 0, 5000));
  assert.ok(fits(window, 1, 50, 50));
  assert.ok(!fits(window, 1, 50, 51));
  assert.ok(!fits(window, 2, 0, 1));
});

test("elements are numbered from 1, or from where another process stopped", () => {
  assert.equal(new Outbox<string>(WIDE).append("e", 1), 1);
  assert.equal(new Outbox<string>(WIDE, 7).append("e", 1), 8);
});

test("a batch holds what the window lets go, and no more than its size", () => {
  assert.deepEqual(outboxOf(3).take(1000), { first: 1, batch: ["e1", "e2", "e3"] });
  assert.deepEqual(outboxOf(3).take(20), { first: 1, batch: ["e1", "e2"] });
  assert.deepEqual(outboxOf(3).take(5), { first: 1, batch: ["e1"] });
  assert.deepEqual(outboxOf(3, { messages: 2, bytes: 1000 }).take(1000), { first: 1, batch: ["e1", "e2"] });
  assert.deepEqual(outboxOf(3, { messages: 9, bytes: 15 }).take(1000), { first: 1, batch: ["e1"] });
  assert.deepEqual(outboxOf(0).take(1000), { first: 1, batch: [] });
});

test("what was taken is gone only when it is acknowledged, which makes room", () => {
  const outbox = outboxOf(3, { messages: 3, bytes: 1000 });
  outbox.take(1000);
  assert.deepEqual([outbox.hasRoom, outbox.waiting, outbox.empty], [false, false, false]);
  outbox.ack(2);
  assert.deepEqual([outbox.hasRoom, outbox.acked, outbox.sent, outbox.last], [true, 2, 3, 3]);
  outbox.ack(3);
  assert.ok(outbox.empty);
});

test("an ack lower than before is ignored, one of what was not sent is a violation", () => {
  const outbox = outboxOf(3);
  outbox.take(10);
  outbox.ack(1);
  outbox.ack(0);
  assert.equal(outbox.acked, 1);
  assert.throws(() => {
    outbox.ack(2);
  }, Violation);
});

test("a resume sends again what the peer does not have, with the sequences it always had", () => {
  for (const received of [0, 1, 2, 3]) {
    const outbox = outboxOf(4);
    outbox.take(30);
    outbox.resume(received);
    const expected = ["e1", "e2", "e3", "e4"].slice(received);
    assert.deepEqual(outbox.take(1000), { first: received + 1, batch: expected });
    assert.equal(outbox.last, 4);
  }
});

test("a resume obeys the window that it brings", () => {
  const outbox = outboxOf(4);
  outbox.take(1000);
  outbox.resume(1);
  outbox.window = { messages: 2, bytes: 1000 };
  assert.deepEqual(outbox.take(1000).batch, ["e2"]); // 1 is not acknowledged yet
  outbox.ack(1);
  assert.deepEqual(outbox.take(1000).batch, ["e3"]);
});

test("a second resume may find that the peer has more than the first one said", () => {
  const outbox = outboxOf(4);
  outbox.take(1000);
  outbox.resume(1);
  outbox.resume(3);
  assert.deepEqual(outbox.take(1000), { first: 4, batch: ["e4"] });
});

test("a resume from below the last ack, or above what was ever sent, is a violation", () => {
  const outbox = outboxOf(4);
  outbox.take(30);
  outbox.ack(2);
  for (const received of [1, 4]) {
    assert.throws(() => {
      outbox.resume(received);
    }, Violation);
  }
});

test("what was received before is dropped and acknowledged again", () => {
  const inbox = inboxOf(3);
  inbox.take();
  inbox.take();
  inbox.ack();
  assert.ok(!inbox.ackPending);
  assert.equal(inbox.skip(2, 5), 2);
  assert.ok(inbox.ackPending);
  assert.equal(inbox.ack(), 2);
});

test("a gap is an error that names what was due", () => {
  assert.throws(() => inboxOf(3).skip(5, 1), new SequenceGap(4, 5));
});

test("what was not granted is a violation, unless it needs no window", () => {
  const inbox = inboxOf(2, { messages: 2, bytes: 1000 });
  assert.throws(() => {
    inbox.put("c3", 10);
  }, Violation);
  inbox.put("closed", 0, true);
  assert.equal(inbox.expected, 4);
});

test("only what was taken is acknowledged", () => {
  const inbox = inboxOf(3);
  assert.ok(!inbox.ackPending);
  inbox.take();
  assert.equal(inbox.head, "c2");
  assert.ok(inbox.ackPending);
  assert.equal(inbox.ack(), 1);
  assert.ok(!inbox.ackPending);
});

test("an ack is due at a quarter of the window, by number or by size", () => {
  const few = inboxOf(3, { messages: 8, bytes: 100_000 });
  few.take();
  assert.ok(!few.ackDue);
  few.take();
  assert.ok(few.ackDue);
  few.ack();
  assert.ok(!few.ackDue);
  const large = inboxOf(3, { messages: 800, bytes: 80 });
  large.take();
  assert.ok(!large.ackDue);
  large.take();
  assert.ok(large.ackDue);
});

test("on a new stream what was taken is acknowledged again, as far as that stream speaks of it", () => {
  const inbox = inboxOf(3);
  inbox.take();
  inbox.take();
  inbox.ack();
  inbox.restartAcks(1);
  assert.equal(inbox.ack(), 1);
  inbox.skip(2, 2);
  assert.equal(inbox.ack(), 2);
});
