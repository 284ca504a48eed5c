/** Leaves a session, and goes on with it as another process would: node build/examples/resume.js [HOST:PORT] */
import { SessionClient, type Position } from "session-service-client";

const address = process.argv[2] ?? "localhost:50051";

async function begin(): Promise<string> {
  await using client = new SessionClient(address);
  await using session = await client.open("echo");
  for (const value of [1, 2, 3]) await session.send("say", value);
  for await (const { spec } of session) {
    console.log(spec);
    if (spec === 2) break;
  }
  return JSON.stringify(await session.detach()); // a secret: it holds the token
}

async function goOn(saved: string): Promise<void> {
  const position = JSON.parse(saved) as Position;
  console.log("going on after", position.received);
  await using client = new SessionClient(address);
  await using session = await client.resume(position);
  await session.send("say", 4);
  for await (const { spec } of session) {
    console.log(spec);
    if (spec === 4) break;
  }
  console.log((await session.close()).reason);
}

await goOn(await begin());
