"""The package cloudevents, unmodified: events in binary, structured and batched mode. The package writes requests and
sends none; what is sent here is what it wrote. Usage: cloudevents_python.py URL"""

import datetime
import json
import sys

import report
import requests

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

TIME = datetime.datetime(2020, 5, 17, 12, 0, 0, 250_000, tzinfo=datetime.timezone.utc)
VISITOR = "cloudevents-python"


def event(number, **more):
    data = more.pop("data", {"domain_userid": VISITOR, "page_url": "https://shop.example/shoes", "price": 59.9, "stock": None})
    return CloudEvent({
        "id": f"cloudevents-python-{number}",
        "source": "https://shop.example/backend",
        "type": "com.example.product.viewed",
        "subject": VISITOR,
        "time": TIME + datetime.timedelta(seconds=number),
        "datacontenttype": "application/json",
        **more,
    }, data)


def send(url, headers, body, events):
    report.sent(events)
    response = requests.post(f"{url}/v1/cloudevents", headers=headers, data=body, timeout=30)
    # One event alone is answered without a body, as brokers want it; a batch by index.
    is_alone = events == 1
    answer = {"accepted": 1, "rejected": []} if is_alone and not response.content else response.json()
    is_taken = response.status_code == (204 if is_alone else 200)
    if is_taken and answer["accepted"] == events and not answer["rejected"]:
        report.delivered(range(events))
    else:
        report.failed(f"{response.status_code} {response.text}")


def main(url):
    messages = [
        to_structured_event(event(1, dataschema="https://shop.example/schemas/viewed.json", tenant="acme", retries=3)),
        to_binary_event(event(2, dataschema="https://shop.example/schemas/viewed.json", tenant="acmé \"quoted\" 100%")),
        # Data that is no object: the visitor is in the subject only.
        to_structured_event(event(3, data=b"\x00\xffbytes", datacontenttype="application/octet-stream")),
        to_binary_event(event(4, data=b"\x00\xffbytes", datacontenttype="application/octet-stream")),
        to_structured_event(event(5, data="plain tëxt", datacontenttype="text/plain")),
        to_binary_event(event(6, data="plain tëxt", datacontenttype="text/plain")),
    ]
    for message in messages:
        send(url, message.headers, message.body, 1)
    batch = [json.loads(to_structured_event(event(number)).body) for number in (7, 8)]
    send(url, {"content-type": "application/cloudevents-batch+json"}, json.dumps(batch), len(batch))
    report.finish()


if __name__ == "__main__":
    main(sys.argv[1])
