"""Real LiveKit clients behind a UDP relay that loses packets: one room a run, by name of what happens in it.

    sessions.py loss_up --url ws://127.0.0.1:7880 --key KEY --secret SECRET --relay 127.0.0.2:7882 --media 127.0.0.1:7882 \
        --seconds 20 --folder FOLDER

Except over TCP and TURN, LiveKit's only candidate is the relay's address (`node_ip`, with `use_ice_lite`: it sends no checks of
its own that would go past the relay). The relay knows whose packets are whose because clients connect one after another, and each
connection names itself in the checks that it sends from every address. What happened is written to FOLDER/done.json: the room, and
what the relay counted for each identity and direction.
"""

import argparse
import asyncio
import collections
import json
import os
import pathlib
import random

from clients import SAMPLE_RATE, tone, write
from livekit import api, rtc

FRAMES_PER_SECOND = 15
LOSS = 0.1
# LiveKit tells TCP and TURN by the addresses that packets come from: nothing stands between.
DIRECT = ("tcp", "turn")


class Rule:
    """What the relay does to the RTP packets of one identity in one direction."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.passed = self.dropped = 0
        self.random = random.Random(1)

    def drops(self, packet: bytes) -> bool:
        # RTP has the version 2 in its first two bits; the packet types 192 to 223 are RTCP.
        if len(packet) < 12 or packet[0] >> 6 != 2 or 192 <= packet[1] <= 223:
            return False
        if self.random.random() < self.loss:
            self.dropped += 1
            return True
        self.passed += 1
        return False

    def counts(self) -> dict:
        return {"passed": self.passed, "dropped": self.dropped}


class Relay(asyncio.DatagramProtocol):
    """Forwards between clients and LiveKit's media port; each client address has a socket of its own to there."""

    def __init__(self, media: tuple[str, int]):
        self.media = media
        self.identity = ""  # who connects now
        self.identities: dict[bytes, str] = {}  # by the user name of the connection
        self.blocked: set[str] = set()
        self.rules: collections.defaultdict[tuple[str, str], Rule] = collections.defaultdict(Rule)
        self.links: dict[tuple[str, int], asyncio.Future[Link]] = {}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, packet: bytes, client: tuple[str, int]) -> None:
        if client not in self.links:
            identity = self.identities.setdefault(user_name(packet), self.identity)
            self.links[client] = asyncio.ensure_future(self.link(client, identity))
        link = self.links[client]
        link.add_done_callback(lambda done: done.result().up(packet))

    async def link(self, client: tuple[str, int], identity: str) -> "Link":
        loop = asyncio.get_running_loop()
        link = Link(self, client, identity)
        await loop.create_datagram_endpoint(lambda: link, remote_addr=self.media, local_addr=("127.0.0.1", 0))
        return link


def user_name(packet: bytes) -> bytes:
    """The USERNAME of a STUN message (RFC 8489); empty if it is none."""
    if packet[4:8] != b"\x21\x12\xa4\x42":
        return b""
    at = 20
    while at + 4 <= len(packet):
        kind, length = int.from_bytes(packet[at : at + 2], "big"), int.from_bytes(packet[at + 2 : at + 4], "big")
        if kind == 6:
            return packet[at + 4 : at + 4 + length]
        at += 4 + (length + 3) // 4 * 4
    return b""


class Link(asyncio.DatagramProtocol):
    """One client address."""

    def __init__(self, relay: Relay, client: tuple[str, int], identity: str):
        self.relay, self.client, self.identity = relay, client, identity

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def up(self, packet: bytes) -> None:
        if self.identity not in self.relay.blocked and not self.relay.rules[self.identity, "up"].drops(packet):
            self.transport.sendto(packet)

    def datagram_received(self, packet: bytes, _: tuple[str, int]) -> None:
        if self.identity not in self.relay.blocked and not self.relay.rules[self.identity, "down"].drops(packet):
            self.relay.transport.sendto(packet, self.client)


class Call:
    """A room, its clients, and what they do."""

    def __init__(self, options: argparse.Namespace, relay: Relay):
        self.options, self.relay = options, relay
        self.rooms: dict[str, rtc.Room] = {}
        self.media: list[asyncio.Task[None]] = []
        self.sid = ""

    async def join(self, identity: str, tracks: int = 0, turn: bool = False) -> rtc.Room:
        """Joins and waits until that many tracks have arrived."""
        self.relay.identity = identity
        room = self.rooms[identity] = rtc.Room()
        arrived = asyncio.Semaphore(0)
        room.on("track_subscribed", lambda *_: arrived.release())
        token = (
            api.AccessToken(self.options.key, self.options.secret)
            .with_identity(identity)
            .with_grants(api.VideoGrants(room_join=True, room=self.options.scenario))
            .to_jwt()
        )
        only_turn = rtc.RtcConfiguration(ice_transport_type=rtc.IceTransportType.TRANSPORT_RELAY)
        await room.connect(self.options.url, token, rtc.RoomOptions(rtc_config=only_turn if turn else None))
        for _ in range(tracks):
            await arrived.acquire()
        self.sid = self.sid or await room.sid
        return room

    async def publish(self, identity: str, size: tuple[int, int] = (320, 180), simulcast: bool = False) -> rtc.LocalAudioTrack:
        """Publishes a microphone and a camera, and waits until their packets have passed the relay."""
        audio, video = rtc.AudioSource(SAMPLE_RATE, 1), rtc.VideoSource(*size)
        self.media += [asyncio.create_task(tone(audio)), asyncio.create_task(noise(video, *size))]
        local = self.rooms[identity].local_participant
        microphone = rtc.LocalAudioTrack.create_audio_track("microphone", audio)
        await local.publish_track(microphone, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
        camera = rtc.LocalVideoTrack.create_video_track("camera", video)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=simulcast)
        await local.publish_track(camera, options)
        while self.options.scenario not in DIRECT and self.relay.rules[identity, "up"].passed < 20:
            await asyncio.sleep(0.05)
        return microphone

    async def sleep(self, share: float = 1.0) -> None:
        await asyncio.sleep(self.options.seconds * share)

    async def pair(self) -> rtc.Room:
        """ann publishes, bob subscribes."""
        await self.join("ann")
        await self.publish("ann")
        return await self.join("bob", tracks=2)

    async def again(self, room: rtc.Room, scenario: "rtc.SimulateScenarioKind.ValueType") -> None:
        """Loses the connection, and waits until it is there again."""
        back = asyncio.Event()
        room.on("reconnected", back.set)
        await room.simulate_scenario(scenario)
        await asyncio.wait_for(back.wait(), 60)

    async def loss_up(self) -> None:
        await self.pair()
        self.relay.rules["ann", "up"].loss = LOSS
        await self.sleep()

    async def loss_down(self) -> None:
        await self.pair()
        self.relay.rules["bob", "down"].loss = LOSS
        await self.sleep()

    async def resume(self) -> None:
        bob = await self.pair()
        await self.sleep(0.5)
        await self.again(bob, rtc.SimulateScenarioKind.SIMULATE_SIGNAL_RECONNECT)
        await self.sleep(0.5)

    async def reconnect(self) -> None:
        bob = await self.pair()
        await self.sleep(0.5)
        await self.again(bob, rtc.SimulateScenarioKind.SIMULATE_FULL_RECONNECT)
        await self.sleep(0.5)

    async def late(self) -> None:
        """Simulcast, mutes, and somebody who comes late."""
        await self.join("ann")
        microphone = await self.publish("ann", size=(640, 360), simulcast=True)
        await self.sleep(0.4)
        microphone.mute()
        await self.sleep(0.1)
        microphone.unmute()
        await self.join("bob", tracks=2)
        await self.sleep(0.4)
        microphone.mute()
        await self.sleep(0.1)

    async def never(self) -> None:
        """cay's packets never arrive."""
        await self.pair()
        self.relay.blocked.add("cay")
        try:
            await asyncio.wait_for(self.join("cay"), 90)
        except (rtc.ConnectError, TimeoutError):
            await self.rooms["cay"].disconnect()
        else:
            raise RuntimeError("cay connected although nothing of hers went through")

    async def tcp(self) -> None:
        """LiveKit takes TCP only."""
        await self.pair()
        await self.sleep()

    async def turn(self) -> None:
        """bob may use LiveKit's TURN server only."""
        await self.join("ann")
        await self.publish("ann")
        await self.join("bob", tracks=2, turn=True)
        await self.sleep()

    async def stop(self) -> None:
        for task in self.media:
            task.cancel()
        for identity in reversed(self.rooms):
            await self.rooms[identity].disconnect()


async def noise(source: rtc.VideoSource, width: int, height: int) -> None:
    """Stripes that move, with some noise: frames of a few packets, in YUV 4:2:0."""
    rows = [random.Random(seed).randbytes(width) for seed in range(64)]
    chroma = bytes([128]) * (width * height // 2)
    count = 0
    while True:
        luma = b"".join(rows[(row // 8 + count) % 64] for row in range(height))
        source.capture_frame(rtc.VideoFrame(width, height, rtc.VideoBufferType.I420, luma + chroma))
        count += 1
        await asyncio.sleep(1 / FRAMES_PER_SECOND)


def address(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)


async def main() -> None:
    scenarios = ["loss_up", "loss_down", "resume", "reconnect", "late", "never", "tcp", "turn"]
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=scenarios)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--relay", type=address, required=True)
    parser.add_argument("--media", type=address, required=True)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    options = parser.parse_args()

    loop = asyncio.get_running_loop()
    _, relay = await loop.create_datagram_endpoint(lambda: Relay(options.media), local_addr=options.relay)
    call = Call(options, relay)
    await getattr(call, options.scenario)()
    await call.stop()
    counts = {f"{identity} {way}": rule.counts() for (identity, way), rule in relay.rules.items()}
    write(options.folder / "done.json", {"room": call.sid, "relay": counts})


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the native library's threads may still run, and nothing is left to wait for
