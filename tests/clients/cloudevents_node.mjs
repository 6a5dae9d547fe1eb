// The package cloudevents, unmodified: events in binary and structured mode, sent by its own transport, and a batch of what it
// wrote. Its transport does not look at the status of an answer; this looks at the body, which is empty where one event was
// taken. Usage: cloudevents_node.mjs URL

import * as report from "./report.mjs";
import { CloudEvent, emitterFor, httpTransport, Mode } from "cloudevents";

const url = `${process.argv[2]}/v1/cloudevents`;
const visitor = "cloudevents-node";

const event = (number, more = {}) =>
  new CloudEvent({
    id: `cloudevents-node-${number}`,
    source: "https://shop.example/backend",
    type: "com.example.product.viewed",
    subject: visitor,
    time: new Date(Date.UTC(2020, 4, 17, 12, 0, number, 250)).toISOString(),
    datacontenttype: "application/json",
    data: { domain_userid: visitor, page_url: "https://shop.example/shoes", price: 59.9, stock: null },
    ...more,
  });

function answered(body, events) {
  const { accepted, rejected } = body || events > 1 ? JSON.parse(body) : { accepted: 1, rejected: [] };
  if (accepted === events && rejected.length === 0) report.delivered(events);
  else report.failed(body);
}

const structured = emitterFor(httpTransport(url), { mode: Mode.STRUCTURED });
const binary = emitterFor(httpTransport(url), { mode: Mode.BINARY });
const schema = "https://shop.example/schemas/viewed.json";
const bytes = new Uint8Array([0, 255, 98, 121]);
const sendings = [
  [structured, event(1, { dataschema: schema, tenant: "acme", retries: 3, sampled: true })],
  [binary, event(2, { dataschema: schema, tenant: "acme", retries: 3 })],
  [structured, event(3, { data: bytes, datacontenttype: "application/octet-stream" })],
  [binary, event(4, { data: bytes, datacontenttype: "application/octet-stream" })],
  [structured, event(5, { data: "plain tëxt", datacontenttype: "text/plain" })],
];
for (const [emit, what] of sendings) {
  report.sent();
  answered((await emit(what)).body, 1);
}

const batch = [event(6), event(7)];
report.sent(batch.length);
const response = await fetch(url, {
  method: "POST",
  headers: { "content-type": "application/cloudevents-batch+json; charset=utf-8" },
  body: JSON.stringify(batch),
});
answered(await response.text(), batch.length);
await report.finish();
