"""The package segment-analytics-python, unmodified: every call that it has, in batches, with gzip and without.
Usage: segment_python.py URL"""

import sys

import report
from clock import install

from segment.analytics import client, request
from segment.analytics.client import Client

CLOCK = install(client, request)
ANONYMOUS = "segment-python"
USER = "ada@example.com"
CONTEXT = {
    "ip": "203.0.113.7",
    "userAgent": "Example/1.0 (Linux)",
    "locale": "en-GB",
    "timezone": "Europe/London",
    "page": {
        "url": "https://shop.example/shoes?colour=red",
        "title": "Red shoes – all",
        "referrer": "https://search.example/?q=shoes",
        "path": "/shoes",
        "search": "?colour=red",
    },
    "campaign": {"name": "spring", "source": "newsletter", "medium": "email"},
    "screen": {"width": 1920, "height": 1080},
}


class Counting(Client):
    """Knows what was delivered: the client itself only says what was not."""

    def send_all(self):
        queued = self.queue.unfinished_tasks
        before = len(report.FAILURES)
        self.flush()
        if len(report.FAILURES) == before:
            report.delivered(range(queued))


def open_client(url, gzip):
    return Counting("write-key-1", host=url, gzip=gzip, on_error=report.failed, max_retries=5, upload_size=100)


def context(**more):
    return {**CONTEXT, **more}  # the client adds to it


def main(url):
    plain = open_client(url, False)

    def call(seconds, method, **what):
        CLOCK.seconds = seconds
        queued, _ = method(**what)
        report.expect(queued, "the queue is full")
        report.sent()

    call(0.25, plain.identify, user_id=USER, anonymous_id=ANONYMOUS, context=context(),
         traits={"email": USER, "plan": "gold", "age": 36, "address": {"city": "Löndon"}})
    call(0.5, plain.track, user_id=USER, event="Product Added", anonymous_id=ANONYMOUS, context=context(),
         properties={"product_id": "SH-1", "price": 59.9, "quantity": 2, "coupon": None, "tags": ["é", "木"]})
    call(1.0, plain.page, user_id=USER, category="Docs", name="Sizes", anonymous_id=ANONYMOUS, context=context(),
         properties={"url": "https://shop.example/sizes", "title": "Sizes", "path": "/sizes",
                     "referrer": "https://shop.example/shoes"})
    call(1.5, plain.screen, user_id=USER, category="App", name="Basket", anonymous_id=ANONYMOUS,
         properties={"items": 2})
    call(2.0, plain.group, user_id=USER, group_id="acme", anonymous_id=ANONYMOUS, traits={"employees": 12})
    # No anonymous id: the client says null.
    call(2.5, plain.alias, previous_id=ANONYMOUS, user_id=USER)
    call(3.0, plain.track, user_id=USER, event="Order Completed", properties={"total": 119.8},
         integrations={"All": False}, message_id="order-1001")
    CLOCK.seconds = 5.0
    plain.send_all()

    packed = open_client(url, True)
    # A time that the application gives, with another zone than the client's clock has, and ids of numbers.
    call(10.0, packed.track, user_id=1815, event="Imported", anonymous_id=ANONYMOUS, timestamp=CLOCK.at(-86_400))
    call(11.0, packed.track, anonymous_id=ANONYMOUS, event="Product Viewed", properties={"product_id": "SH-2"})
    CLOCK.seconds = 12.0
    packed.send_all()
    report.finish()


if __name__ == "__main__":
    main(sys.argv[1])
