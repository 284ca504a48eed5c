/** Answers the questions of the app `greet`: node build/examples/greet.js [HOST:PORT] */
import { SessionClient } from "session-service-client";

const answers = ["Ada", "thirty-six", 36];

await using client = new SessionClient(process.argv[2] ?? "localhost:50051");
await using session = await client.open("greet");
for await (const { command, taskId, spec } of session) {
  if (command === "ask") {
    const { question, problem } = spec as { question: string; problem: string | null };
    const answer = answers.shift();
    console.log(problem === null ? question : `${question} (${problem})`, answer);
    await session.send("answer", answer, { taskId });
  } else {
    console.log((spec as { text: string }).text);
  }
}
console.log(session.closed?.reason);
