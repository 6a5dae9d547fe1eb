"""The package rudder-sdk-python, unmodified: every call that it has, in batches, with gzip (its default) and without.
Usage: rudder_python.py URL"""

import sys

import report
from clock import install

from rudderstack.analytics import client, request
from rudderstack.analytics.client import Client

CLOCK = install(client, request)
ANONYMOUS = "rudder-python"
USER = "ada@example.com"


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


def main(url):
    packed = open_client(url, True)

    def call(seconds, method, **what):
        CLOCK.seconds = seconds
        queued, _ = method(**what)
        report.expect(queued, "the queue is full")
        report.sent()

    page = {"url": "https://shop.example/shoes?colour=red", "title": "Red shoes – all",
            "referrer": "https://search.example/?q=shoes", "path": "/shoes"}
    call(0.25, packed.identify, user_id=USER, anonymous_id=ANONYMOUS,
         traits={"email": USER, "plan": "gold", "age": 36})
    call(0.5, packed.track, user_id=USER, event="Product Added", anonymous_id=ANONYMOUS,
         context={"ip": "203.0.113.7", "userAgent": "Example/1.0 (Linux)", "page": page, "sessionId": 1589716800},
         properties={"product_id": "SH-1", "price": 59.9, "quantity": 2, "coupon": None, "tags": ["é", "木"]})
    call(1.0, packed.page, user_id=USER, category="Docs", name="Sizes", anonymous_id=ANONYMOUS,
         properties={"url": "https://shop.example/sizes", "title": "Sizes"})
    call(1.5, packed.screen, user_id=USER, category="App", name="Basket", anonymous_id=ANONYMOUS,
         properties={"items": 2})
    call(2.0, packed.group, user_id=USER, group_id="acme", anonymous_id=ANONYMOUS, traits={"employees": 12})
    call(2.5, packed.alias, previous_id=ANONYMOUS, user_id=USER)
    call(3.0, packed.track, user_id=USER, event="Order Completed", properties={"total": 119.8},
         integrations={"All": False}, message_id="order-1001")
    CLOCK.seconds = 5.0
    packed.send_all()

    plain = open_client(url, False)
    call(10.0, plain.track, user_id=1815, event="Imported", anonymous_id=ANONYMOUS, timestamp=CLOCK.at(-86_400))
    CLOCK.seconds = 12.0
    plain.send_all()
    report.finish()


if __name__ == "__main__":
    main(sys.argv[1])
