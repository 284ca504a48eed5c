/** What a peer does against the rules of delivery; it breaks the stream (protocol D7). */
export class Violation extends Error {
  override readonly name: string = "Violation";
}

/** Something before this element is missing (protocol D2). */
export class SequenceGap extends Violation {
  override readonly name = "SequenceGap";

  constructor(
    readonly expected: number,
    readonly received: number,
  ) {
    super(`expected sequence ${String(expected)}, got ${String(received)}`);
  }
}
