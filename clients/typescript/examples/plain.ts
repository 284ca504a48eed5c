/** A plain session with nothing but the generated stubs: node build/examples/plain.js [HOST:PORT] */
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { SessionService, type AttachRequestSchema } from "session-service-client/v1";
import type { MessageInitShape } from "@bufbuild/protobuf";

const baseUrl = `http://${process.argv[2] ?? "localhost:50051"}`;
const service = createClient(SessionService, createGrpcTransport({ baseUrl }));

async function* requests(): AsyncGenerator<MessageInitShape<typeof AttachRequestSchema>> {
  yield { control: { case: "open", value: { app: "echo" } } };
  yield { events: [{ event: "say", payload: { case: "json", value: '"hello"' } }] };
} // to have done writing ends the session, when everything has been answered

for await (const { commands, control } of service.attach(requests())) {
  for (const { command, payload } of commands) {
    console.log(command, payload.case === "spec" ? payload.value.kind.value : payload.value);
  }
  if (control.case === "closed") console.log("closed", control.value.reason);
}
