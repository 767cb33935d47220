// Ranks items for one user, tells the gateway that the first was clicked, and ranks again.
//
//   node examples/node/rank.mjs 127.0.0.1:50051 USER_ID
//
// With TLS: CA_FILE=ca.pem, and for mTLS CERT_FILE=client.pem KEY_FILE=client.key. With a token: TOKEN=lt_…
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address = "127.0.0.1:50051", userId = "42"] = process.argv.slice(2);
const protos = fileURLToPath(new URL("../../protos", import.meta.url));
const definition = loader.loadSync(
  ["longtail/activation/v1/activation.proto", "longtail/activation/v1/feedback.proto"],
  { includeDirs: [protos], enums: String, longs: String },
);
const { ActivationService, FeedbackService } = grpc.loadPackageDefinition(definition).longtail.activation.v1;

const pem = (name) => (process.env[name] ? readFileSync(process.env[name]) : null);
const credentials = process.env.CA_FILE
  ? grpc.credentials.createSsl(pem("CA_FILE"), pem("KEY_FILE"), pem("CERT_FILE"))
  : grpc.credentials.createInsecure();
const activation = new ActivationService(address, credentials);
const feedback = new FeedbackService(address, credentials);

// One unary call as a promise, with a deadline: a ranking that comes too late is of no use.
function ask(client, method, request, timeoutMs = 1000) {
  const metadata = new grpc.Metadata();
  if (process.env.TOKEN) metadata.set("authorization", `Bearer ${process.env.TOKEN}`);
  const options = { deadline: Date.now() + timeoutMs };
  return new Promise((resolve, reject) =>
    client[method](request, metadata, options, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

try {
  const answer = await ask(activation, "RankItems", { userId, limit: 5, surface: "home", idempotencyKey: randomUUID() });
  for (const cause of answer.degradedCauses ?? []) console.error(`degraded: ${cause.dependency}: ${cause.cause}`);
  for (const item of answer.items ?? []) console.log(item.rank, item.itemId, item.value.toFixed(4));

  const first = answer.items?.[0];
  if (first) {
    const clicked = {
      eventId: randomUUID(),
      userId,
      itemId: first.itemId,
      eventType: "click",
      decisionId: answer.decisionId,
    };
    const { acks } = await ask(feedback, "RecordEvents", { events: [clicked] });
    console.log(acks[0].status);
  }
} catch (error) {
  // `error.metadata` has google.rpc details in "grpc-status-details-bin"; the text says what to do.
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
} finally {
  activation.close();
  feedback.close();
}
