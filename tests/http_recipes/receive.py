"""Lets LiveKit's own receiver for Python judge webhooks: one JSON object a line in, {"body", "token"}; the event out."""

import json
import sys

from livekit.api import TokenVerifier, WebhookReceiver

key, secret = sys.argv[1:]
receiver = WebhookReceiver(TokenVerifier(key, secret))
for line in sys.stdin:
    webhook = json.loads(line)
    event = receiver.receive(webhook["body"], webhook["token"])
    print(json.dumps({"event": event.event, "id": event.id, "room": event.room.name, "sid": event.participant.sid}))
