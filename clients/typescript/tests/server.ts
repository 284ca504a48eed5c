/** The real server, in a process of its own. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** The package's folder. */
export const PACKAGE = join(dirname(fileURLToPath(import.meta.url)), "..", "..");

/** The server's command line. */
export const PROGRAM = process.env["SESSION_SERVICE"] ?? join(PACKAGE, "..", "..", ".venv", "bin", "session-service");

/** Why tests that need the server are skipped; false where it is there. With CI set they fail instead. */
export const NO_SERVER: string | false =
  existsSync(PROGRAM) || process.env["CI"] !== undefined ? false : `there is no ${PROGRAM}: set SESSION_SERVICE`;

/** Serves the example apps. */
export class Server implements AsyncDisposable {
  private constructor(
    readonly address: string,
    private readonly process: ReturnType<typeof spawn>,
  ) {}

  static async start(listen = "127.0.0.1:0", ...options: string[]): Promise<Server> {
    const process = spawn(PROGRAM, ["serve", "--listen", listen, ...options, "session_service.examples:apps"], {
      cwd: join(PACKAGE, "..", ".."),
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(process, "spawn");
    for await (const line of createInterface(process.stdout)) {
      const address = /^listening on (\S+)$/.exec(line)?.[1];
      if (address !== undefined) return new Server(address, process);
    }
    throw new Error(`${PROGRAM} ended before it listened`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode === null) {
      this.process.kill("SIGKILL");
      await once(this.process, "exit");
    }
  }
}
