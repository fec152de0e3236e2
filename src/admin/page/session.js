// One session: what stands out, its participants over time, their connections and tracks, its events.
const EVENTS = 100;
const SEVERITY = {
  problem: 'M-4 -4L4 4M4 -4L-4 4', warning: 'M0 -4L4.6 4H-4.6Z', note: 'M-3.6 0A3.6 3.6 0 1 1 3.6 0A3.6 3.6 0 1 1 -3.6 0', fine: 'M-4.5 0L-1.2 3.4L4.5 -3.4',
};
const SESSION_STATES = { active: 'busy', ended: 'good', lost: 'warn' };

const severitySign = (severity, text) => svg('svg', { class: 'severity ' + severity, viewBox: '-6.5 -6.5 13 13', role: 'img', 'aria-label': text || severity },
  svg('title', {}, text || severity), svg('path', { d: SEVERITY[severity] }));
const dated = (time) => new Date(time).toLocaleString([], { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hour12: false });
const precise = (time) => clock(millis(time)) + '.' + Math.floor(millis(time) % 1000 / 100);
const person = (name, length) => h('bdi', {}, short(name || '–', length || 80));
const table = (kind, head, rows) => h('div', { class: 'scroll' }, h('table', { class: kind },
  h('thead', {}, h('tr', {}, ...head.map((text) => h('th', {}, text)))), h('tbody', {}, ...rows.map((cells) => h('tr', {}, ...cells.map((cell) => h('td', {}, cell)))))));
const orDash = (value, format) => value === undefined || value === null ? '–' : format(value);

class SessionView {
  constructor(sid, sink) {
    this.sid = sid;
    this.sink = sink;
    this.element = h('div', { 'data-session': sid });
    this.chart = new Chart((key) => this.choose(key));
    this.shown = undefined;
    this.events = EVENTS;
    this.text = '';
  }

  async load() {
    const answer = await (await api('sessions/' + encodeURIComponent(this.sid) + (this.sink ? '?sink=' + encodeURIComponent(this.sink) : ''))).text();
    if (answer === this.text) return;
    this.text = answer;
    this.read = JSON.parse(answer);
    this.session = this.read.session;
    this.render();
  }

  /** Whether records may still come. */
  get isOpen() { return !this.session || !this.session.settled; }

  choose(key) {
    this.shown = key;
    const focused = document.activeElement && document.activeElement.dataset.key;
    if (this.select) this.select.value = this.chosen();
    this.chart.update(this.session, this.shown);
    refocus(this.element, focused);
  }

  /** The option of who is shown. */
  chosen() {
    return this.shown === null ? '' : String(this.session.participants.findIndex((participant) => keyOf(participant) === this.shown));
  }

  /** Who is shown first: all, while they can be distinguished. */
  first() {
    const { observations, participants } = this.session;
    const worst = observations.find((seen) => seen.severity !== 'note' && participants.some((participant) => keyOf(participant) === subjectOf(seen)));
    return participants.length <= 4 || !worst ? null : subjectOf(worst);
  }

  render() {
    const session = this.session;
    const open = new Set([...this.element.querySelectorAll('details[open]')].map((details) => details.dataset.key));
    const focused = document.activeElement && document.activeElement.dataset.key;
    if (this.shown === undefined) this.shown = this.first();
    const name = short(session.room_name || session.room_sid, 120);
    document.title = name + ' – livekit-spool';
    this.element.replaceChildren(
      h('a', { class: 'back', href: '#sessions', 'data-key': 'back' }, '← All sessions'),
      this.head(name), this.observations(), this.overTime(), this.participants(), ...this.jobs(), this.moments());
    for (const details of this.element.querySelectorAll('details')) if (open.has(details.dataset.key)) details.open = true;
    this.chart.update(session, this.shown);
    refocus(this.element, focused);
  }

  head(name) {
    const { session, read } = this;
    const end = millis(session.ended_at || session.last_at);
    const remarks = [
      session.settled || session.state === 'lost' ? null : session.state === 'active' ? 'Active: its figures grow as LiveKit sends them, some every 30 seconds.' :
        'Not settled yet: records may still come until three and a half minutes after its end.',
      session.state === 'lost' ? 'No end was sent, and no records any more: its node died, or records are missing.' : null,
      read.cut ? 'It has more records than one request may read: its figures are too low.' : null,
      ...(read.unread || []).slice(0, 3).map((line) => 'Not read: ' + short(line, 200)),
    ].filter(Boolean);
    return h('section', { class: 'card' },
      h('div', { class: 'head' }, h('h2', { 'data-field': 'room' }, h('bdi', {}, name)), h('span', { class: 'pill ' + SESSION_STATES[session.state], 'data-field': 'session-state' }, session.state),
        h('span', { class: 'where' }, session.room_sid), h('span', { class: 'grow' }), h('span', { class: 'where' }, 'from ' + read.sink + ', ' + read.address)),
      h('div', { class: 'numbers' },
        number('began', dated(session.started_at), 'began'), number('took', age((end - millis(session.started_at)) / 1000), 'took'),
        number('participants', count(session.totals.participants), 'participants'), number('at once', count(session.totals.peak_participants), 'peak'),
        number('connected', age(session.totals.connection_seconds), 'connected'), number('in', size(session.totals.bytes_in), 'bytes-in'), number('out', size(session.totals.bytes_out), 'bytes-out'),
        session.node_ids.length ? number('node', session.node_ids.map((node) => short(node, 24)).join(', '), 'node') : null),
      ...remarks.map((text) => h('p', { class: 'remark' }, text)));
  }

  observations() {
    const seen = this.session.observations;
    return h('section', { class: 'card' }, h('h2', {}, 'What stands out'), h('ol', { class: 'observations', 'data-field': 'observations' }, ...(seen.length ? seen.map((observation) =>
      h('li', { 'data-kind': observation.kind }, severitySign(observation.severity), subjectOf(observation)
        ? h('a', { href: '#sessions/' + this.sid, 'data-key': 'observation ' + observation.kind + ' ' + subjectOf(observation).slice(0, 100), onclick: (event) => { event.preventDefault(); this.choose(subjectOf(observation)); this.chart.element.scrollIntoView({ block: 'start', behavior: 'smooth' }); } }, h('bdi', {}, short(observation.text, 400)))
        : h('bdi', {}, short(observation.text, 400)))) : [h('li', {}, severitySign('fine'), 'Nothing: all participants connected, and no loss, delay or score stands out.')])));
  }

  overTime() {
    const participants = this.session.participants;
    this.select = h('select', { 'data-key': 'shown', 'aria-label': 'Whose lines are shown', onchange: () => this.choose(this.select.value === '' ? null : keyOf(participants[Number(this.select.value)])) },
      h('option', { value: '' }, 'all participants, the worst of each'), ...participants.slice(0, 500).map((participant, i) => h('option', { value: String(i) }, short(keyOf(participant), 60))));
    this.select.value = this.chosen();
    const sign = (text, ...look) => h('span', {}, svg('svg', { class: 'sign wide', viewBox: '0 -6 22 12', 'aria-hidden': 'true' }, ...look), ' ' + text);
    const bar = (kind) => svg('rect', { class: kind, x: 1, y: -4, width: 20, height: 8, rx: 2 });
    const line = (kind) => svg('path', { class: 'track ' + kind, d: 'M1 0H21' });
    const mark = (kind, d) => svg('path', { class: kind, transform: 'translate(11 0)', d });
    return h('section', { class: 'card' },
      h('div', { class: 'head' }, h('h2', {}, 'Over time'), h('span', { class: 'grow' }), this.select),
      h('div', { class: 'legend' }, sign('connecting', bar('joining')), sign('active', bar('here')), sign('never active', bar('never')),
        sign('resumed', mark('event', 'M0 -6L5 4H-5Z')), sign('reconnected', mark('event', 'M0 -6L6 0L0 6L-6 0Z')), sign('left for another reason', mark('failed', 'M-1 -5H1.5V5H-1Z')),
        sign('camera', line('camera')), sign('microphone', line('microphone')), sign('screen', line('screen')), sign('muted', line('muted microphone')), h('span', {}, '↑ to LiveKit, ↓ from LiveKit')),
      this.chart.element,
      participants.length > this.chart.rowsShown ? h('div', { class: 'actions' }, h('button', { type: 'button', 'data-key': 'rows', onclick: () => { this.chart.rowsShown = Infinity; this.render(); } },
        `Show all ${count(participants.length)} participants`)) : null);
  }

  participants() {
    const session = this.session;
    return h('section', { class: 'card' }, h('h2', {}, 'Participants'), ...session.participants.map((participant) => h('details', { class: 'participant', 'data-key': 'participant ' + keyOf(participant).slice(0, 100), 'data-participant': participant.identity.slice(0, 100) },
      h('summary', {}, h('h3', {}, person(keyOf(participant))), h('span', { class: 'where' },
        [participant.name ? short(participant.name, 40) : null, participant.kind === 'STANDARD' ? null : participant.kind.toLowerCase(), age(participant.connection_seconds), size(participant.bytes_in) + ' in', size(participant.bytes_out) + ' out'].filter(Boolean).join(' · '))),
      ...participant.connections.flatMap((connection) => this.connection(connection)))),
      session.participants.length ? null : h('p', { class: 'empty' }, 'No record names a participant.'));
  }

  connection(connection) {
    const { client } = connection;
    const text = (value) => short(value || '', 60);
    const quality = (own) => [orDash(own.loss, (loss) => FORMATS.loss(loss * 100)), orDash(own.max_jitter_us, (us) => FORMATS.jitter_us(us / 1000)), orDash(own.max_rtt_ms, FORMATS.rtt_ms), orDash(own.min_score, FORMATS.score), size(own.bytes), count(own.nacks) + ' / ' + count(own.plis) + ' / ' + count(own.firs)];
    const spans = (all) => all.map((span) => clock(millis(span.from)) + ' – ' + (span.to ? clock(millis(span.to)) : '')).join(', ');
    const parts = [table('left', ['connection', 'joined', 'connected in', 'over', 'client', 'left', 'duration'], [[
      connection.sid, orDash(connection.joined_at, precise), orDash(connection.connect_ms, (ms) => count(ms) + ' ms'), connection.transport || (connection.active_at ? '–' : 'never active'),
      h('bdi', {}, [[client.sdk, client.sdk_version], [client.browser, client.browser_version], [client.os, client.os_version], [client.device], [client.network]].map((pair) => pair.filter(Boolean).map(text).join(' ')).filter(Boolean).join(', ') || '–'),
      (connection.left_at ? precise(connection.left_at) : '–') + (connection.reason ? ' ' + connection.reason : ''), age(connection.seconds)]])];
    const head = ['loss', 'jitter', 'RTT', 'lowest score', 'bytes', 'NACK / PLI / FIR'];
    if (connection.published.length) parts.push(h('h4', {}, 'Published, to LiveKit'), table('left', ['track', 'codec', 'published', 'muted', 'subscribers', ...head], connection.published.map((track) => [
      h('bdi', {}, sourceName(track) + (track.name ? ' “' + short(track.name, 30) + '”' : '')), text(track.mime) + (track.width ? ` ${track.width}×${track.height}` : '') + (track.layers > 1 ? `, ${track.layers} layers` : ''),
      orDash(track.published_at, (time) => clock(millis(time)) + (track.publish_ms === undefined ? '' : `, after ${Math.round(track.publish_ms)} ms`)), spans(track.muted) || '–', count(track.subscribers.length), ...quality(track.upstream)])));
    if (connection.subscribed.length) parts.push(h('h4', {}, 'Received, from LiveKit'), table('left', ['track', 'of', 'subscribed', 'after', ...head], connection.subscribed.map((track) => [
      sourceName(track) + (track.error ? ': ' + short(track.error, 80) : ''), person(track.publisher_identity, 40), spans(track.spans) || '–', orDash(track.subscribe_ms, (ms) => Math.round(ms) + ' ms'), ...quality(track.downstream)])));
    return parts;
  }

  jobs() {
    const { egresses, ingresses, sip_calls: calls, webhooks } = this.session;
    const jobs = [...egresses.map((job) => ['egress', job]), ...ingresses.map((job) => ['ingress', job]), ...calls.map((job) => ['SIP call', job])];
    const failed = webhooks.filter((webhook) => webhook.error);
    return [
      jobs.length ? h('section', { class: 'card' }, h('h2', {}, 'Egress, ingress and SIP'), table('left', ['what', 'id', 'status', 'began', 'ended', 'error'], jobs.map(([what, job]) => [
        what + (job.kind ? ', ' + short(job.kind, 40) : ''), short(job.id, 40), short(job.status, 40), orDash(job.started_at, precise), orDash(job.ended_at, precise), h('bdi', {}, short(job.error || '–', 200))]))) : null,
      failed.length ? h('section', { class: 'card' }, h('h2', {}, `${count(failed.length)} of ${count(webhooks.length)} webhooks failed`), table('left', ['time', 'webhook', 'to', 'error'], failed.slice(0, EVENTS).map((webhook) => [
        precise(webhook.at), short(webhook.event, 40), short(webhook.url, 80), h('bdi', {}, short(webhook.error, 200))]))) : null,
    ].filter(Boolean);
  }

  moments() {
    const all = this.session.moments;
    const more = all.length > this.events ? h('button', { type: 'button', 'data-key': 'events', onclick: () => { this.events = Infinity; this.render(); } }, `Show all ${count(all.length)}`) : null;
    return h('section', { class: 'card' }, h('details', { 'data-key': 'moments' }, h('summary', {}, h('h3', {}, 'Events'), h('span', { class: 'where' }, count(all.length))),
      table('left', ['time', 'event', 'who', 'what'], all.slice(0, this.events).map((moment) => [precise(moment.at), short(moment.kind, 60), person(moment.identity || moment.connection_sid, 40), h('bdi', {}, short(moment.detail || '', 120))])),
      more && h('div', { class: 'actions' }, more)));
  }
}

/** Focuses what has replaced the focused element. */
function refocus(element, key) {
  if (!key) return;
  const again = [...element.querySelectorAll('[data-key]')].find((candidate) => candidate.dataset.key === key);
  if (again && document.activeElement !== again) again.focus({ preventScroll: true });
}
