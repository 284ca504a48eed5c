import assert from "node:assert/strict";
import { test } from "node:test";
import { runInNewContext } from "node:vm";

import { PayloadError } from "../src/errors.js";
import { readJson, VALUE, writeJson } from "../src/json.js";

const circle: Record<string, unknown> = {};
circle["self"] = circle;

function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { a: value };
  return value;
}

for (const value of [
  null,
  true,
  "",
  'quotes " and \\ and \u0000 and 😀',
  0,
  -1.5,
  1e300,
  5e-324,
  Number.MAX_SAFE_INTEGER,
  2n ** 53n,
  -(2n ** 63n),
  2n ** 64n - 1n,
  [],
  {},
  { a: [1, { b: null }], "not an identifier": 2 },
  [12345678901234567890n, "1234567890123456789", 0.1, "a\\", '"', "]}"],
]) {
  test(`${JSON.stringify(value, (_, item: unknown) => (typeof item === "bigint" ? `${String(item)}n` : item))} comes back as it was`, () => {
    assert.deepStrictEqual(readJson(writeJson(value, "data"), "json"), value);
  });
}

test("minus zero stays what it is", () => {
  assert.equal(writeJson(-0, "data"), "-0.0");
  assert.ok(Object.is(readJson("-0.0", "json"), -0));
});

test("what is nested 200 deep is carried, and one level more refused", () => {
  assert.deepStrictEqual(readJson(writeJson(nested(200), "data"), "json"), nested(200));
  assert.throws(() => writeJson(nested(201), "data"), /nested deeper than 200/);
  assert.throws(() => readJson("[".repeat(201) + "]".repeat(201), "json"), /nested deeper than 200/);
});

test("many flat containers are not deep", () => {
  const value = Array.from({ length: 500 }, () => [1]);
  assert.deepStrictEqual(readJson(writeJson(value, "data"), "json"), value);
});

for (const [what, value, message] of [
  ["NaN", { a: [1, NaN] }, "data.a[1]: NaN is no JSON number"],
  ["infinity", -Infinity, "data: -Infinity is no JSON number"],
  ["undefined", { "a b": undefined }, 'data["a b"]: undefined is no JSON value: leave it out, or send null'],
  ["a hole", [1, , 2], "data[1]: undefined is no JSON value: leave it out, or send null"], // eslint-disable-line no-sparse-arrays
  ["an integer that may have lost digits", 2 ** 53, /beyond 2\^53/],
  ["a bigint beyond 64 bits", 2n ** 64n, /beyond 64 bits/],
  ["a bigint below 64 bits", -(2n ** 63n) - 1n, /beyond 64 bits/],
  ["a circle", circle, /in a circle/],
  ["a date", { when: new Date(0) }, "data.when: a Date is no JSON value"],
  ["a map", new Map(), "data: a Map is no JSON value"],
  ["bytes within JSON", [new Uint8Array(1)], "data[0]: a Uint8Array is no JSON value"],
  ["a function", { f: () => 1 }, "data.f: a function is no JSON value"],
  ["a symbol", Symbol("s"), "data: a symbol is no JSON value"],
  ["a key that is a symbol", { [Symbol("s")]: 1 }, /symbol is no text/],
  ["a lone surrogate", ["\ud800"], /lone surrogate/],
  ["a lone surrogate in a key", { "\ud800": 1 }, /lone surrogate/],
] as const) {
  test(`${what} is refused, with where it is`, () => {
    assert.throws(
      () => writeJson(value, "data"),
      (error: unknown) =>
        error instanceof PayloadError &&
        (typeof message === "string" ? error.message === message : message.test(error.message)),
    );
  });
}

test("plain objects of another realm, and without a prototype, are objects", () => {
  assert.equal(writeJson(runInNewContext("({a: [1]})"), "data"), '{"a":[1]}');
  assert.equal(writeJson(Object.assign(Object.create(null) as object, { a: 1 }), "data"), '{"a":1}');
});

test("parameters are held to what a double and 30 levels carry", () => {
  assert.throws(() => writeJson(2n ** 53n + 1n, "params", VALUE), /beyond 2\^53/);
  assert.throws(() => writeJson(nested(31), "params", VALUE), /nested deeper than 30/);
  assert.equal(writeJson(nested(2), "params", VALUE), '{"a":[1]}');
});

for (const text of [
  "",
  "{",
  "[1,]",
  "NaN",
  "01",
  "'a'",
  "18446744073709551616",
  "-9223372036854775809",
  "1e400",
  "1".repeat(100_000),
]) {
  test(`the text ${text.slice(0, 30)} is refused`, () => {
    assert.throws(() => readJson(text, "json"), PayloadError);
  });
}

test("white space, escapes and repeated keys are read as JSON.parse reads them", () => {
  const text =
    ' { "a\\u0062" : [ 1 ,\t-2.5e3 , true , false , null , "" , { } , [ ] ] , "x" : 1 ,\n"x" : 9007199254740993 }\r\n';
  assert.deepStrictEqual(readJson(text, "json"), {
    ab: [1, -2500, true, false, null, "", {}, []],
    x: 9007199254740993n,
  });
});

test("a key __proto__ is a key like any other", () => {
  const value = readJson('{"__proto__": 9007199254740993}', "json") as object;
  assert.deepEqual(Object.entries(value), [["__proto__", 9007199254740993n]]);
  assert.equal(Object.getPrototypeOf(value), Object.prototype);
  assert.equal(writeJson(value, "data"), '{"__proto__":9007199254740993}');
});
