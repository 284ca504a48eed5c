/**
 * JSON text to values and back, exactly or not at all (protocol F4).
 *
 * `JSON.parse` would round an integer beyond 2^53, and `JSON.stringify` would turn NaN into null and drop undefined.
 * Here an integer beyond 2^53 is a bigint, both ways; one within is a number, and so is anything with a fraction or an
 * exponent.
 */
import { PayloadError } from "./errors.js";

/** How JSON values travel, and so what they may be. */
export interface Format {
  /** The deepest nesting of arrays and objects. */
  readonly maxDepth: number;
  readonly minInteger: bigint;
  readonly maxInteger: bigint;
  /** What is said of an integer that is not between. */
  readonly limit: string;
}

/** JSON as text. */
export const TEXT: Format = { maxDepth: 200, minInteger: -(2n ** 63n), maxInteger: 2n ** 64n - 1n, limit: "64 bits" };

/** JSON as `google.protobuf.Value`, whose numbers are doubles. */
export const VALUE: Format = { maxDepth: 30, minInteger: -(2n ** 53n), maxInteger: 2n ** 53n, limit: "2^53" };

/** From here on `String` writes a number with an exponent, so that its reader takes it for a float. */
const SHORTEST_EXPONENT = 1e21;

/**
 * Returns a value as JSON text.
 *
 * @param path what the value is called in errors.
 * @throws {@link PayloadError} it cannot be carried exactly.
 */
export function writeJson(value: unknown, path: string, format: Format = TEXT): string {
  return new Writer(path, format).write(value);
}

/**
 * Returns what JSON text says.
 *
 * @param path what the text is called in errors.
 * @throws {@link PayloadError} it is no JSON, holds what cannot be kept exactly, or nests too deep.
 */
export function readJson(text: string, path: string, format: Format = TEXT): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new PayloadError(path, error instanceof Error ? error.message : String(error));
  }
  const exact = !SUSPICIOUS_NUMBER.test(text) && !looksDeep(text, format.maxDepth);
  return exact ? value : new Reader(text, path, format).read();
}

// 16 digits may be beyond 2^53, a large exponent beyond what a double holds. Wrong about texts and fractions, which
// then only cost more time.
const SUSPICIOUS_NUMBER = /\d{16}|[eE]\+?\d{3}/;

function looksDeep(text: string, depth: number): boolean {
  if (text.length <= 2 * depth) return false;
  let opened = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if ((code === 0x5b || code === 0x7b) && ++opened > depth) return true;
  }
  return false;
}

class Writer {
  readonly #path: string[];

  constructor(
    path: string,
    private readonly format: Format,
  ) {
    this.#path = [path];
  }

  write(value: unknown): string {
    switch (typeof value) {
      case "string":
        return this.#text(value);
      case "number":
        return this.#number(value);
      case "bigint":
        if (value < this.format.minInteger || value > this.format.maxInteger) {
          this.#fail(`an integer beyond ${this.format.limit}: send it as text`);
        }
        return String(value);
      case "boolean":
        return String(value);
      case "object":
        return value === null ? "null" : this.#container(value);
      case "undefined":
        return this.#fail("undefined is no JSON value: leave it out, or send null");
      default:
        return this.#fail(`a ${typeof value} is no JSON value`);
    }
  }

  #text(value: string): string {
    if (!value.isWellFormed()) this.#fail("the text holds a lone surrogate, which UTF-8 cannot carry");
    return JSON.stringify(value);
  }

  #number(value: number): string {
    if (!Number.isFinite(value)) this.#fail(`${String(value)} is no JSON number`);
    if (Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value) < SHORTEST_EXPONENT) {
      this.#fail("an integer beyond 2^53, of which a number may have lost digits: send a bigint, or text");
    }
    return Object.is(value, -0) ? "-0.0" : String(value);
  }

  #container(value: object): string {
    // The path has its root, so this is the depth of `value`.
    if (this.#path.length > this.format.maxDepth) {
      this.#fail(`nested deeper than ${String(this.format.maxDepth)} levels, or in a circle`);
    }
    if (Array.isArray(value)) {
      const items: string[] = [];
      for (let i = 0; i < value.length; i++) items.push(this.#within(`[${String(i)}]`, value[i]));
      return `[${items.join(",")}]`;
    }
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype !== null && prototype !== Object.prototype && !isForeignPlainObject(prototype)) {
      this.#fail(`${nameOf(value)} is no JSON value`);
    }
    if (Object.getOwnPropertySymbols(value).length > 0) this.#fail("a key that is a symbol is no text");
    const items = Object.entries(value).map(
      ([key, item]) =>
        `${this.#text(key)}:${this.#within(isIdentifier(key) ? `.${key}` : `[${JSON.stringify(key)}]`, item)}`,
    );
    return `{${items.join(",")}}`;
  }

  #within(step: string, value: unknown): string {
    this.#path.push(step);
    const text = this.write(value);
    this.#path.pop();
    return text;
  }

  #fail(why: string): never {
    throw new PayloadError(this.#path.join(""), why);
  }
}

/** Tells whether this is the `Object.prototype` of another realm, such as that of `vm` or of a test runner. */
function isForeignPlainObject(prototype: unknown): boolean {
  return Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype as object, "hasOwnProperty");
}

function nameOf(value: object): string {
  const { constructor } = value as { constructor?: unknown };
  return typeof constructor === "function" && constructor.name !== ""
    ? `a ${constructor.name}`
    : "an object of a class";
}

function isIdentifier(key: string): boolean {
  return /^[A-Za-z_$][\w$]*$/.test(key);
}

/** Reads a text that `JSON.parse` has accepted, number by number. */
class Reader {
  #at = 0;
  #depth = 0;

  constructor(
    private readonly text: string,
    private readonly path: string,
    private readonly format: Format,
  ) {}

  read(): unknown {
    switch (this.#next()) {
      case "{":
        return this.#object();
      case "[":
        return this.#array();
      case '"':
        return this.#string();
      case "t":
        this.#at += 4;
        return true;
      case "f":
        this.#at += 5;
        return false;
      case "n":
        this.#at += 4;
        return null;
      default:
        return this.#number();
    }
  }

  #object(): Record<string, unknown> {
    const object: Record<string, unknown> = {};
    this.#enter();
    while (this.#next() !== "}") {
      if (this.#next() === ",") this.#at += 1;
      this.#next();
      const key = this.#string();
      this.#next();
      this.#at += 1; // the colon
      const value = this.read();
      // An assignment to __proto__ would not make a property of it.
      if (key === "__proto__")
        Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
      else object[key] = value;
    }
    this.#leave();
    return object;
  }

  #array(): unknown[] {
    const array: unknown[] = [];
    this.#enter();
    while (this.#next() !== "]") {
      if (this.#next() === ",") this.#at += 1;
      array.push(this.read());
    }
    this.#leave();
    return array;
  }

  #string(): string {
    const start = this.#at;
    let end = start;
    let escaped: boolean;
    do {
      end = this.text.indexOf('"', end + 1);
      let first = end;
      while (this.text[first - 1] === "\\") first -= 1;
      escaped = (end - first) % 2 === 1;
    } while (escaped);
    this.#at = end + 1;
    return JSON.parse(this.text.slice(start, this.#at)) as string;
  }

  #number(): number | bigint {
    const start = this.#at;
    while (NUMERIC.has(this.text[this.#at])) this.#at += 1;
    const digits = this.text.slice(start, this.#at);
    const number = Number(digits);
    if (/[.eE]/.test(digits)) {
      if (!Number.isFinite(number)) throw new PayloadError(this.path, `${digits.slice(0, 24)} is beyond a double`);
      return number;
    }
    if (Number.isSafeInteger(number)) return number;
    // To convert a million digits would take minutes.
    const integer = digits.length > 100 ? undefined : BigInt(digits);
    if (integer === undefined || integer < this.format.minInteger || integer > this.format.maxInteger) {
      throw new PayloadError(this.path, `the integer ${digits.slice(0, 24)} is beyond ${this.format.limit}`);
    }
    return integer;
  }

  /** Skips white space; returns the character that follows. */
  #next(): string | undefined {
    while (WHITE.has(this.text[this.#at])) this.#at += 1;
    return this.text[this.#at];
  }

  #enter(): void {
    this.#at += 1;
    if (++this.#depth > this.format.maxDepth) {
      throw new PayloadError(this.path, `nested deeper than ${String(this.format.maxDepth)} levels`);
    }
  }

  #leave(): void {
    this.#at += 1;
    this.#depth -= 1;
  }
}

const WHITE: ReadonlySet<string | undefined> = new Set(" \t\n\r");
const NUMERIC: ReadonlySet<string | undefined> = new Set("0123456789+-.eE");
