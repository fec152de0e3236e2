// Lets LiveKit's own receiver for Node judge webhooks: one JSON object a line in, {"body", "token"}; the event out.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [directory, key, secret] = process.argv.slice(2);
const path = createRequire(`${directory}/package.json`).resolve('livekit-server-sdk');
const { WebhookReceiver } = await import(pathToFileURL(path));
const receiver = new WebhookReceiver(key, secret);
for (const line of readFileSync(0, 'utf8').split('\n').filter((line) => line)) {
  const { body, token } = JSON.parse(line);
  const event = await receiver.receive(body, token);
  const { name } = event.room ?? { name: '' };
  console.log(JSON.stringify({ event: event.event, id: event.id, room: name, sid: event.participant?.sid ?? '' }));
}
