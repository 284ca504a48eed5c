/** What is published. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import * as index from "../src/index.js";
import { PACKAGE } from "./server.js";

const run = promisify(execFile);

test("the public names are these", () => {
  assert.deepEqual(Object.keys(index).sort(), [
    "PayloadError",
    "PoisonedEventError",
    "SessionClient",
    "SessionClientError",
    "SessionEnded",
    "SessionLost",
    "SessionRefused",
    "TakenOver",
  ]);
});

/** What the README's fragments take for granted. */
const PRELUDE = `
declare const client: import("session-service-client").SessionClient;
declare const session: import("session-service-client").Session;
`;

const PROGRAM = `
import { SessionClient, SessionLost, type Position, type Session } from "session-service-client";
import { SessionService } from "session-service-client/v1";

export async function talk(client: SessionClient, position: Position): Promise<string | undefined> {
  const session: Session = await client.resume(position, { signal: AbortSignal.timeout(5) });
  for await (const { command, taskId } of session) await session.send(command, { n: 1n }, { taskId });
  return session.closed?.reason;
}

await using client = new SessionClient("localhost:1", { retry: { totalMs: 1 } });
try {
  await client.open("app");
} catch (error) {
  console.log(error instanceof SessionLost, SessionService.typeName);
}
`;

test("the package holds what is needed and nothing else, installs, and works typed and run", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "session-service-client-"));
  t.after(() => rm(folder, { recursive: true }));
  // Without its scripts, which would build what is running here anew.
  const pack = ["pack", "--json", "--ignore-scripts", "--pack-destination", folder];
  const { stdout } = await run("npm", pack, { cwd: PACKAGE });
  const [{ filename, files }] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }];
  const paths = files.map(({ path }) => path);
  for (const path of ["LICENSE", "README.md", "package.json", "dist/index.js", "dist/index.d.ts", "dist/v1.d.ts"]) {
    assert.ok(paths.includes(path), path);
  }
  const others = paths.filter((path) => !/^dist\/[\w/.]+\.(js|d\.ts)$/.test(path));
  assert.deepEqual(others.sort(), ["LICENSE", "README.md", "package.json"]);
  assert.ok(!paths.some((path) => /conformance|test/.test(path)));

  await writeFile(join(folder, "package.json"), '{"type": "module"}');
  await run("npm", ["install", "--prefer-offline", "--no-save", join(folder, filename)], { cwd: folder });
  await writeFile(join(folder, "program.ts"), PROGRAM);
  const readme = await readFile(join(PACKAGE, "README.md"), "utf8");
  const blocks = [...readme.matchAll(/^```ts\n(.*?)^```/gms)].map(([, block = ""]) => block);
  assert.ok(blocks.length > 3);
  const programs = ["program.ts", ...blocks.map((_, index) => `readme${String(index)}.ts`)];
  for (const [index, block] of blocks.entries()) {
    const text = block.startsWith("import ") ? block : `${PRELUDE}${block}export {};\n`;
    await writeFile(join(folder, `readme${String(index)}.ts`), text);
  }
  const tsc = join(PACKAGE, "node_modules", "typescript", "bin", "tsc");
  const types = ["--types", "node", "--typeRoots", join(PACKAGE, "node_modules", "@types")];
  const options = ["--strict", "--skipLibCheck", "--target", "es2022", "--lib", "es2022,esnext.disposable"];
  await run(process.execPath, [tsc, ...options, ...types, "--module", "nodenext", ...programs], { cwd: folder });
  const program = await run(process.execPath, ["program.js"], { cwd: folder });
  assert.equal(program.stdout, "true session_service.v1.SessionService\n");
});
