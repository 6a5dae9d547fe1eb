"""The package snowplow-tracker, unmodified: every kind of event that it has, by POST and by GET, with JSON in base64 and
as it is. Usage: snowplow_python.py URL"""

import sys

import report
from clock import install

from snowplow_tracker import (
    Emitter, PagePing, PageView, ScreenView, SelfDescribing, SelfDescribingJson, StructuredEvent, Subject, Tracker,
)

CLOCK = install()
PRODUCT = "iglu:com.example/product/jsonschema/1-0-0"
PAGE = "https://shop.example/shoes?colour=red&size=42#reviews"


def product(sku, **more):
    return SelfDescribingJson(PRODUCT, {"sku": sku, **more})


def subject():
    return (
        Subject()
        .set_platform("web").set_user_id("ada@example.com").set_domain_user_id("snowplow-python")
        .set_domain_session_id("7f1c3a52-0f3e-4a6c-9f63-0d8a5f1b2c3d").set_domain_session_index(3)
        .set_network_user_id("2b7e1516-28ae-4d2a-abf7-158809cf4f3c")
        .set_ip_address("203.0.113.7").set_useragent("Example/1.0 (Linux)").set_lang("en-GB")
        .set_timezone("Europe/London").set_screen_resolution(1920, 1080).set_viewport(1280, 720).set_color_depth(24)
    )


class Sending:
    """A tracker whose every event is either delivered or a failure that ends the script."""

    def __init__(self, url, method, is_base64, batch_size):
        self.emitter = Emitter(url, method=method, batch_size=batch_size, on_success=report.delivered,
                               on_failure=lambda sent, unsent: report.failed(f"{len(unsent)} unsent"))
        self.tracker = Tracker(f"{method}-{'base64' if is_base64 else 'plain'}", self.emitter, subject=subject(),
                               app_id="shop", encode_base64=is_base64)

    def track(self, seconds, event):
        CLOCK.seconds = seconds
        self.tracker.track(event)
        report.sent()


def main(url):
    posted = Sending(url, "post", True, 100)
    posted.track(0.25, PageView(PAGE, "Red shoes – all", "https://search.example/?q=shoes",
                                context=[product("SH-1", price=59.9, tags=["é", "木"]), product("SH-2")]))
    posted.track(0.5, PagePing(PAGE, "Red shoes – all", None, 0, 12, 100, 900))
    posted.track(1.0, StructuredEvent("shop", "add-to-basket", "SH-1", "pcs", 2.5))
    posted.track(1.5, SelfDescribing(product("SH-1", available=True, stock=None)))
    posted.track(2.0, ScreenView(id_="4e6f1a1e-66a1-4d2f-8c4c-0b6f8f9f5a11", name="Basket", type="sheet"))
    # The time of an event that the application knows better than any clock.
    posted.track(2.5, StructuredEvent("shop", "return", true_timestamp=1_577_934_245_678))
    CLOCK.seconds = 5.9
    posted.emitter.flush()
    # This tracker cuts the time of sending to whole seconds: here that is before the event.
    posted.track(10.75, StructuredEvent("shop", "sent-before-created"))
    posted.emitter.flush()

    plain = Sending(url, "post", False, 2)  # sends by itself with the second event
    plain.track(20.0, SelfDescribing(product("SH-3", name="a \"quoted\" & <tagged> name"), context=[product("SH-4")]))
    plain.track(21.0, PageView(PAGE))

    for is_base64 in (True, False):
        got = Sending(url, "get", is_base64, 1)  # sends each by itself
        got.track(30.0, PageView(PAGE, "Red shoes – all", "https://search.example/?q=a+b%20c", context=[product("木 &=+")]))
        got.track(31.0, SelfDescribing(product("SH-5", name="a \"quoted\" & <tagged> name")))
    report.finish()


if __name__ == "__main__":
    main(sys.argv[1])
