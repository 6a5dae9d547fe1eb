// The package @segment/analytics-node, unmodified: every call that it has, in batches. Usage: segment_node.mjs URL

import { at, moveTo } from "./clock.mjs";
import * as report from "./report.mjs";
import { Analytics } from "@segment/analytics-node";

const anonymousId = "segment-node";
const userId = "ada@example.com";
const context = {
  ip: "203.0.113.7",
  userAgent: "Example/1.0 (Linux)",
  locale: "en-GB",
  page: { url: "https://shop.example/shoes?colour=red", title: "Red shoes – all", referrer: "https://search.example/?q=shoes", path: "/shoes" },
  campaign: { name: "spring", source: "newsletter" },
};

const client = new Analytics({ host: process.argv[2], writeKey: "write-key-1", flushAt: 100, flushInterval: 60_000, maxRetries: 5 });
client.on("error", (error) => report.failed(error.reason));

function call(seconds, method, what) {
  moveTo(seconds);
  report.sent();
  client[method](what, (error) => (error ? report.failed(error) : report.delivered()));
}

call(0.25, "identify", { userId, anonymousId, context, traits: { email: userId, plan: "gold", age: 36, address: { city: "Löndon" } } });
call(0.5, "track", { userId, anonymousId, context, event: "Product Added", properties: { product_id: "SH-1", price: 59.9, quantity: 2, coupon: null, tags: ["é", "木"] } });
call(1, "page", { userId, anonymousId, context, category: "Docs", name: "Sizes", properties: { url: "https://shop.example/sizes", title: "Sizes", path: "/sizes", referrer: "https://shop.example/shoes" } });
call(1.5, "screen", { userId, anonymousId, category: "App", name: "Basket", properties: { items: 2 } });
call(2, "group", { userId, anonymousId, groupId: "acme", traits: { employees: 12 } });
call(2.5, "alias", { userId, previousId: anonymousId });
call(3, "track", { userId, event: "Order Completed", properties: { total: 119.8 }, integrations: { All: false }, messageId: "order-1001" });
moveTo(5);
await client.flush({ timeout: 20_000 });
await report.settled();

call(10, "track", { userId: "1815", anonymousId, event: "Imported", timestamp: at(-86_400) });
call(11, "track", { anonymousId, event: "Product Viewed", properties: { product_id: "SH-2" } });
moveTo(12);
await client.closeAndFlush({ timeout: 20_000 });
await report.finish();
