/** A TCP relay that cuts its connections when it is told to. */
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

export class Relay implements AsyncDisposable {
  readonly #sockets = new Set<Socket>();

  private constructor(private readonly server: Server) {}

  /** `mostUp` is how many bytes may go up on a connection; it is reset instead of bringing more. */
  static async start(target: string, { mostUp = Infinity } = {}): Promise<Relay> {
    const [host, port] = target.split(":");
    const server = createServer();
    const relay = new Relay(server);
    server.on("connection", (near) => {
      const far = connect(Number(port), host);
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        relay.#sockets.add(one);
        one.on("error", () => undefined);
        one.on("close", () => {
          relay.#sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
      near.on("data", () => {
        if (near.bytesRead > mostUp) near.resetAndDestroy();
      });
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return relay;
  }

  get address(): string {
    return `127.0.0.1:${String((this.server.address() as AddressInfo).port)}`;
  }

  /** Resets every connection. */
  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.server.close();
    await once(this.server, "close");
  }
}
