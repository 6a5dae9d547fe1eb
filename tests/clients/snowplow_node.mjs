// The package @snowplow/node-tracker, unmodified: every kind of event that a server sends, by POST and by GET, with JSON
// in base64 and as it is. Usage: snowplow_node.mjs URL

import { moveTo } from "./clock.mjs";
import * as report from "./report.mjs";
import tracker from "@snowplow/node-tracker";

const PRODUCT = "iglu:com.example/product/jsonschema/1-0-0";
const PAGE = "https://shop.example/shoes?colour=red&size=42#reviews";
const product = (sku, more = {}) => ({ schema: PRODUCT, data: { sku, ...more } });

function open(url, eventMethod, encodeBase64) {
  const made = tracker.newTracker(
    { namespace: `${eventMethod}-${encodeBase64 ? "base64" : "plain"}`, appId: "shop", encodeBase64 },
    {
      endpoint: url,
      eventMethod,
      bufferSize: 100,
      onRequestSuccess: (events) => report.delivered(events.length),
      onRequestFailure: (failure) => report.failed(`${failure.status}: ${failure.message}`),
    },
  );
  made.setPlatform("web");
  made.setUserId("ada@example.com");
  made.setDomainUserId("snowplow-node");
  made.setNetworkUserId("2b7e1516-28ae-4d2a-abf7-158809cf4f3c");
  made.setSessionId("7f1c3a52-0f3e-4a6c-9f63-0d8a5f1b2c3d");
  made.setSessionIndex(3);
  made.setIpAddress("203.0.113.7");
  made.setUseragent("Example/1.0 (Linux)");
  made.setLang("en-GB");
  made.setTimezone("Europe/London");
  made.setScreenResolution(1920, 1080);
  made.setViewport(1280, 720);
  made.setColorDepth(24);
  const track = (seconds, event, contexts, time) => {
    moveTo(seconds);
    report.sent();
    made.track(event, contexts, time);
  };
  return { track, flush: made.flush };
}

const url = process.argv[2];
// Made anew for each event: this tracker collects the contexts of all events in what it was given.
const pageView = () => tracker.buildPageView({ pageUrl: PAGE, pageTitle: "Red shoes – all", referrer: "https://search.example/?q=a+b%20c" });

const posted = open(url, "post", true);
posted.track(0.25, pageView(), [product("SH-1", { price: 59.9, tags: ["é", "木"] }), product("SH-2")]);
posted.track(0.5, tracker.buildPagePing({ pageUrl: PAGE, pageTitle: "Red shoes – all", minXOffset: 0, maxXOffset: 12, minYOffset: 100, maxYOffset: 900 }));
posted.track(1, tracker.buildStructEvent({ category: "shop", action: "add-to-basket", label: "SH-1", property: "pcs", value: 2.5 }));
posted.track(1.5, tracker.buildSelfDescribingEvent({ event: product("SH-1", { available: true, stock: null }) }));
posted.track(2, tracker.buildScreenView({ name: "Basket", id: "basket-1" }));
posted.track(2.5, tracker.buildEcommerceTransaction({ orderId: "1001", affiliation: "web", total: 119.8, tax: 19.1, shipping: 5, city: "Löndon", state: "LDN", country: "UK", currency: "GBP" }));
posted.track(2.5, tracker.buildEcommerceTransactionItem({ orderId: "1001", sku: "SH-1", name: "Shoe", category: "shoes", price: 59.9, quantity: 2, currency: "GBP" }));
// Times that the application knows: a true one, and one of the device instead of its clock's.
posted.track(3, tracker.buildStructEvent({ category: "shop", action: "return" }), [], { type: "ttm", value: 1_577_934_245_678 });
posted.track(3.5, tracker.buildStructEvent({ category: "shop", action: "seen-earlier" }), [], { type: "dtm", value: 1_589_716_790_000 });
moveTo(5.9);
await posted.flush();
await report.settled();

const plain = open(url, "post", false);
plain.track(20, tracker.buildSelfDescribingEvent({ event: product("SH-3", { name: 'a "quoted" & <tagged> name' }) }), [product("SH-4")]);
plain.track(21, tracker.buildPageView({ pageUrl: PAGE }));
moveTo(22);
await plain.flush();
await report.settled();

for (const encodeBase64 of [true, false]) {
  const got = open(url, "get", encodeBase64);
  got.track(30, pageView(), [product("木 &=+")]);
  got.track(31, tracker.buildSelfDescribingEvent({ event: product("SH-5", { name: 'a "quoted" & <tagged> name' }) }));
  moveTo(32);
  await got.flush();
  await report.settled();
}
await report.finish();
