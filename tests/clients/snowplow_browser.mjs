// The package @snowplow/browser-tracker, unmodified, in a page of jsdom: cookies of its own, the page's address and title,
// the context web_page. Usage: snowplow_browser.mjs URL

import { moveTo } from "./clock.mjs";
import * as report from "./report.mjs";
import { CookieJar, JSDOM } from "jsdom";

const PRODUCT = "iglu:com.example/product/jsonschema/1-0-0";
const product = (sku, more = {}) => ({ schema: PRODUCT, data: { sku, ...more } });

const { window } = new JSDOM("<!doctype html><html lang='en'><head><title>Red shoes – all</title></head><body></body></html>", {
  url: "https://shop.example/shoes?colour=red&size=42#reviews",
  referrer: "https://search.example/?q=a+b%20c",
  pretendToBeVisual: true,
});
globalThis.window = window;
for (const name of ["document", "localStorage", "sessionStorage", "screen", "location", "history"]) globalThis[name] = window[name];
Object.defineProperty(globalThis, "navigator", { value: window.navigator, configurable: true });
const browser = (await import("@snowplow/browser-tracker")).default;

// What a browser does and fetch in Node does not: it keeps cookies, asks first whether it may send, and tells nobody the answer
// unless the server lets the page see it.
const cookies = new CookieJar();
const { origin } = window.location;

function lets(response, what) {
  const allowed = response.headers.get("access-control-allow-origin") === origin;
  report.expect(response.ok && allowed && response.headers.get("access-control-allow-credentials") === "true", what);
}

async function fetchAsBrowser(request) {
  const asked = [...request.headers.keys()].join(", ");
  const headers = { origin, "access-control-request-method": request.method, "access-control-request-headers": asked };
  const preflight = await fetch(request.url, { method: "OPTIONS", headers });
  const allowed = (preflight.headers.get("access-control-allow-headers") ?? "").toLowerCase().split(/, */);
  lets(preflight, `the preflight is answered ${preflight.status}`);
  for (const name of request.headers.keys()) report.expect(allowed.includes(name), `the header ${name} is not allowed`);
  request.headers.set("cookie", cookies.getCookieStringSync(request.url));
  request.headers.set("origin", origin);
  const response = await fetch(request);
  lets(response, `the page cannot see the answer ${response.status}`);
  for (const cookie of response.headers.getSetCookie()) cookies.setCookieSync(cookie, request.url);
  return response;
}

browser.newTracker("web", process.argv[2], {
  appId: "shop",
  bufferSize: 100,
  encodeBase64: true,
  contexts: { webPage: true, session: true },
  customFetch: fetchAsBrowser,
  onRequestSuccess: (events) => report.delivered(events.length),
  onRequestFailure: (failure) => report.failed(`${failure.status}: ${failure.message}`),
});

// Every event of the tracker comes by here, those that it sends by itself as well.
browser.addPlugin({
  plugin: {
    afterTrack(payload) {
      report.sent();
      if (payload.e === "pp") browser.disableActivityTracking();
    },
  },
});

async function flush(seconds) {
  moveTo(seconds);
  browser.flushBuffer();
  await report.settled();
}

browser.enableActivityTracking({ minimumVisitLength: 1, heartbeatDelay: 1 });
moveTo(0.25);
browser.trackPageView({ context: [product("SH-1", { price: 59.9, tags: ["é", "木"] })] });
moveTo(1);
browser.trackStructEvent({ category: "shop", action: "add-to-basket", label: "SH-1", property: "pcs", value: 2.5 });
browser.setUserId("ada@example.com");
moveTo(2);
browser.trackSelfDescribingEvent({ event: product("SH-1", { available: true, stock: null }) });
moveTo(3);
// A visitor who moves the mouse is worth a ping, a second of real time later.
window.document.dispatchEvent(new window.Event("mousemove"));
await report.until(() => report.seen() === 4);
await flush(5.9);
moveTo(10);
browser.trackPageView({ title: "Basket" });
await flush(12);
// From here on the visitor wants to be nobody: no ids but the session's, and the collector is told to keep no address.
browser.enableAnonymousTracking({ options: { withServerAnonymisation: true, withSessionTracking: true } });
moveTo(20);
browser.trackPageView({ title: "Basket" });
await flush(21);
await report.finish();
