"""Real LiveKit clients for the end-to-end test: rooms in which synthetic audio and video are published and subscribed to.

    clients.py --url ws://127.0.0.1:7880 --key KEY --secret SECRET --rooms 3 --folder FOLDER

When all rooms are on it writes FOLDER/on.json. From then on, in each room, one client after another joins, takes the
tracks and leaves, and the publisher mutes and unmutes. When FOLDER/end appears, everybody leaves, and what happened, room by
room, is written to FOLDER/done.json: what the server must have reported of it.
"""

import argparse
import asyncio
import json
import math
import os
import pathlib
import struct

from livekit import api, rtc

WIDTH, HEIGHT, FRAMES_PER_SECOND = 320, 180, 10
SAMPLE_RATE = 48000
TRACKS = 2  # per room: audio and video
STEP = 0.25  # seconds between two actions of a room


class Room:
    """One room: a publisher, a subscriber that stays, guests that come and go."""

    def __init__(self, options: argparse.Namespace, name: str):
        self.options = options
        self.name = name
        self.sid = ""
        self.publisher = rtc.Room()
        self.subscriber = rtc.Room()
        self.joined: list[str] = []
        self.mutes = 0
        self.media: list[asyncio.Task[None]] = []

    async def join(self, room: rtc.Room, identity: str, tracks: int) -> None:
        """Joins and waits until that many tracks have arrived."""
        arrived = asyncio.Semaphore(0)
        room.on("track_subscribed", lambda *_: arrived.release())
        token = (
            api.AccessToken(self.options.key, self.options.secret)
            .with_identity(identity)
            .with_grants(api.VideoGrants(room_join=True, room=self.name))
            .to_jwt()
        )
        await room.connect(self.options.url, token)
        self.joined.append(room.local_participant.sid)
        for _ in range(tracks):
            await arrived.acquire()

    async def start(self) -> None:
        await self.join(self.publisher, "publisher", 0)
        audio = rtc.AudioSource(SAMPLE_RATE, 1)
        video = rtc.VideoSource(WIDTH, HEIGHT)
        self.media = [asyncio.create_task(tone(audio)), asyncio.create_task(picture(video))]
        local = self.publisher.local_participant
        self.audio = rtc.LocalAudioTrack.create_audio_track("tone", audio)
        await local.publish_track(self.audio, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
        await local.publish_track(
            rtc.LocalVideoTrack.create_video_track("picture", video),
            rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=False),
        )
        await self.join(self.subscriber, "subscriber", TRACKS)
        self.sid = await self.publisher.sid

    async def live(self, end: asyncio.Event) -> None:
        """Runs until the end: each round is a guest and a mute."""
        while not end.is_set():
            guest = rtc.Room()
            await self.join(guest, f"guest-{len(self.joined)}", TRACKS)
            self.audio.mute()
            await asyncio.sleep(STEP)
            self.audio.unmute()
            self.mutes += 1
            await guest.disconnect()
            await asyncio.sleep(STEP)

    async def stop(self) -> dict:
        for task in self.media:
            task.cancel()
        await self.subscriber.disconnect()
        await self.publisher.disconnect()
        return {"name": self.name, "sid": self.sid, "participants": self.joined, "tracks": TRACKS, "mutes": self.mutes}


async def tone(source: rtc.AudioSource) -> None:
    """A 440 Hz tone in frames of 20 ms; capture_frame sets the pace."""
    samples, at = SAMPLE_RATE // 50, 0
    while True:
        wave = [int(8000 * math.sin(2 * math.pi * 440 * (at + n) / SAMPLE_RATE)) for n in range(samples)]
        await source.capture_frame(rtc.AudioFrame(struct.pack(f"<{samples}h", *wave), SAMPLE_RATE, 1, samples))
        at += samples


async def picture(source: rtc.VideoSource) -> None:
    """A grey that brightens and darkens, in YUV 4:2:0."""
    count = 0
    while True:
        luma = bytes([16 + abs(count % 200 - 100)]) * (WIDTH * HEIGHT)
        chroma = bytes([128]) * (WIDTH * HEIGHT // 2)
        source.capture_frame(rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.I420, luma + chroma))
        count += 1
        await asyncio.sleep(1 / FRAMES_PER_SECOND)


def write(path: pathlib.Path, content: object) -> None:
    """Writes the file atomically: the test polls for it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.rename(path)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--rooms", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    options = parser.parse_args()

    rooms = [Room(options, f"room-{n}") for n in range(options.rooms)]
    await asyncio.gather(*(room.start() for room in rooms))
    write(options.folder / "on.json", [room.name for room in rooms])

    end = asyncio.Event()
    lives = asyncio.gather(*(room.live(end) for room in rooms))
    while not (options.folder / "end").exists():
        if lives.done():
            break  # one of them failed: await raises its error
        await asyncio.sleep(0.05)
    end.set()
    await lives
    write(options.folder / "done.json", await asyncio.gather(*(room.stop() for room in rooms)))


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the native library's threads may still run, and nothing is left to wait for
