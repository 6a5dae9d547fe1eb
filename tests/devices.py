"""Devices that speak MQTT, with a client that knows nothing of Keyloom. Used by tests/mqtt.rs.

Takes the address of a broker, and on standard input one JSON object per line: client, topic, qos, and the payload in
base64. Each client connects once and publishes its messages in order. Ends when the broker has acknowledged all of them:
PUBACK for QoS 1; for QoS 0, which has none, the answer to a disconnection that came behind it.
"""

import base64
import json
import sys
import threading

import paho.mqtt.client as mqtt

PATIENCE = 30


def main() -> None:
    host, port = sys.argv[1].rsplit(":", 1)
    messages = [json.loads(line) for line in sys.stdin if line.strip()]
    clients: dict[str, mqtt.Client] = {}
    sent = []
    for message in messages:
        name = message["client"]
        if name not in clients:
            client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv311)
            answered = threading.Event()
            client.on_connect = lambda *_, answered=answered: answered.set()
            client.connect(host, int(port))
            client.loop_start()
            if not answered.wait(PATIENCE) or not client.is_connected():
                sys.exit(f"{name} was not let in")
            clients[name] = client
        payload = base64.b64decode(message["payload"])
        sent.append(clients[name].publish(message["topic"], payload, qos=message["qos"]))
    for info in sent:
        info.wait_for_publish(PATIENCE)
        if not info.is_published():
            sys.exit(f"message {info.mid} was not taken within {PATIENCE} s")
    for client in clients.values():
        client.disconnect()
        client.loop_stop()
    print(len(sent))


main()
