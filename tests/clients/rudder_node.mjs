// The package @rudderstack/rudder-sdk-node, unmodified: every call that it has, with gzip (its default) and without.
// Usage: rudder_node.mjs URL

import { at, moveTo } from "./clock.mjs";
import * as report from "./report.mjs";
import Analytics from "@rudderstack/rudder-sdk-node";

const anonymousId = "rudder-node";
const userId = "ada@example.com";
const context = {
  ip: "203.0.113.7",
  userAgent: "Example/1.0 (Linux)",
  page: { url: "https://shop.example/shoes?colour=red", title: "Red shoes – all", referrer: "https://search.example/?q=shoes", path: "/shoes" },
};

function open(gzip) {
  const client = new Analytics("write-key-1", { dataPlaneUrl: process.argv[2], flushAt: 100, flushInterval: 60_000, gzip, retryCount: 5, errorHandler: report.failed });
  return {
    call(seconds, method, what) {
      moveTo(seconds);
      report.sent();
      client[method](what, (error) => (error ? report.failed(error) : report.delivered()));
    },
    async flush(seconds) {
      moveTo(seconds);
      await client.flush();
      await report.settled();
    },
  };
}

const packed = open(true);
// The first event goes at once and alone.
packed.call(0.25, "identify", { userId, anonymousId, context, traits: { email: userId, plan: "gold", age: 36 } });
await packed.flush(0.25);
packed.call(0.5, "track", { userId, anonymousId, context, event: "Product Added", properties: { product_id: "SH-1", price: 59.9, quantity: 2, coupon: null, tags: ["é", "木"] } });
packed.call(1, "page", { userId, anonymousId, context, category: "Docs", name: "Sizes", properties: { url: "https://shop.example/sizes", title: "Sizes" } });
packed.call(1.5, "screen", { userId, anonymousId, category: "App", name: "Basket", properties: { items: 2 } });
packed.call(2, "group", { userId, anonymousId, groupId: "acme", traits: { employees: 12 } });
packed.call(2.5, "alias", { userId, previousId: anonymousId });
packed.call(3, "track", { userId, event: "Order Completed", properties: { total: 119.8 }, integrations: { All: false }, messageId: "order-1001" });
await packed.flush(5);

const plain = open(false);
plain.call(10, "track", { userId: 1815, anonymousId, event: "Imported", timestamp: at(-86_400) });
await plain.flush(10);
plain.call(11, "track", { anonymousId, event: "Product Viewed", originalTimestamp: at(10.5), properties: { product_id: "SH-2" } });
await plain.flush(12);
await report.finish();
