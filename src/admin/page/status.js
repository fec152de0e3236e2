// The view of all sinks.
const cards = new Map();
/** The API's history, and the newest state change when it was requested. */
let past = null;
let pastChange = '';
let isAsking = false;
let last = null;

const STATES = {
  delivering: 'busy', idle: 'good', connecting: 'busy', paused: 'warn', stopping: 'warn',
  unavailable: 'bad', unauthorized: 'bad', rejecting: 'bad', 'dead-letters-full': 'bad', 'spool-failed': 'bad', 'not-configured': 'warn', stopped: 'warn',
};

/** A sink's card: built once, updated with every snapshot. */
class Card {
  constructor(name) {
    this.name = name;
    this.pill = h('span', { class: 'pill', 'data-field': 'state' });
    this.since = h('span', { class: 'where' });
    this.where = h('span', { class: 'where' });
    this.error = h('p', { class: 'error', 'data-field': 'error', hidden: true });
    this.advice = h('ul', { class: 'advice', 'data-field': 'advice' });
    this.numbers = h('div', { class: 'numbers' });
    this.fill = h('i');
    this.quota = h('div', { class: 'quota' });
    this.plot = new Plot(name);
    this.rows = h('tbody');
    this.shown = h('pre', { hidden: true, tabindex: '0', 'data-field': 'shown' });
    this.pause = this.button('Pause', () => this.act(this.paused ? 'resume' : 'pause'));
    const head = ['stream', 'records', 'blocks', 'on disk', 'oldest', 'dead'];
    this.element = h('section', { class: 'card', 'data-sink': name },
      h('div', { class: 'head' }, h('h2', {}, name), this.pill, this.since, h('span', { class: 'grow' }), this.where),
      this.error, this.advice, this.numbers,
      this.quota, h('div', { class: 'bar' }, this.fill),
      this.plot.element,
      h('div', { class: 'scroll' }, h('table', { class: 'streams' }, h('thead', {}, h('tr', {}, ...head.map((text) => h('th', {}, text)))), this.rows)),
      h('div', { class: 'actions' },
        this.pause,
        this.button('Flush now', () => this.act('flush')),
        this.button('Retry dead letters', () => this.act('dead/retry')),
        this.button('Show records', () => this.show('peek?n=20', 'records', 'The backlog is empty.')),
        this.button('Show dead letters', () => this.show('dead?n=50', 'dead_letters', 'No dead letters.'))),
      this.shown);
  }

  button(text, onclick) { return h('button', { type: 'button', onclick }, text); }

  async act(action) {
    try {
      const answer = await (await api('sinks/' + encodeURIComponent(this.name) + '/' + action, { method: 'POST' })).json();
      notice(this.name + ': ' + (answer.message || 'done'));
    } catch (error) { notice(this.name + ': ' + error.message); }
  }

  async show(path, key, none) {
    if (!this.shown.hidden && this.key === key) { this.shown.hidden = true; return; }
    try {
      const answer = await (await api('sinks/' + encodeURIComponent(this.name) + '/' + path)).json();
      const entries = answer[key].map((entry) => JSON.stringify(entry, null, 1));
      this.shown.textContent = entries.concat(answer.failed || []).join('\n') || none;
    } catch (error) { this.shown.textContent = error.message; }
    this.key = key;
    this.shown.hidden = false;
  }

  update(sink, now) {
    const delivery = sink.delivery || {};
    this.paused = sink.state === 'paused';
    this.pause.textContent = this.paused ? 'Resume' : 'Pause';
    this.pill.textContent = sink.state;
    this.pill.className = 'pill ' + (STATES[sink.state] || '');
    this.since.textContent = sink.since ? 'for ' + age((now - sink.since) / 1000) : '';
    this.where.textContent = [sink.kind, sink.address, sink.required ? null : 'optional'].filter(Boolean).join(' · ');
    const problem = sink.spool_error || sink.unread_error || sink.unread_dead_letters || (STATES[sink.state] === 'bad' ? sink.last_error : null);
    this.error.hidden = !problem;
    this.error.textContent = problem || '';
    this.advice.replaceChildren(...sink.advice.map((text) => h('li', {}, text)));
    this.numbers.replaceChildren(
      number('backlog', count(sink.records), 'records'),
      number('oldest', age(sink.oldest_age_seconds), 'oldest'),
      number('in', rate(delivery.rate_in || 0), 'rate-in'),
      number('out', rate(delivery.rate_out || 0), 'rate-out'),
      number('empty in', sink.records === 0 || sink.state === 'idle' ? '–' : delivery.empty_in_seconds === null || delivery.empty_in_seconds === undefined ? 'grows' : age(delivery.empty_in_seconds), 'drain'),
      number('lag', delivery.lag_millis === null || delivery.lag_millis === undefined ? '–' : age(delivery.lag_millis / 1000), 'lag'),
      number('delivered', count(delivery.delivered_records || 0), 'delivered'),
      number('dead letters', count(sink.dead_letters), 'dead-letters'));
    if (sink.dead_letters > 0) this.numbers.lastChild.lastChild.classList.add('bad');
    const used = sink.max_bytes > 0 ? Math.min(1, sink.disk_bytes / sink.max_bytes) : 0;
    this.quota.textContent = size(sink.disk_bytes) + ' on disk' + (sink.max_bytes > 0 ? ' of ' + size(sink.max_bytes) : '');
    this.fill.style.width = (used * 100).toFixed(1) + '%';
    this.fill.className = used > 0.9 ? 'full' : '';
    this.rows.replaceChildren(...Object.entries(sink.streams).map(([name, stream]) => h('tr', { 'data-stream': name },
      h('td', {}, name),
      h('td', { 'data-field': 'stream-records' }, count(stream.records)), h('td', {}, count(stream.blocks)), h('td', {}, size(stream.bytes)),
      h('td', {}, age(stream.oldest_age_seconds)), h('td', {}, count(stream.dead_letters)))));
    this.plot.update(past, sink, now);
  }
}

/** Requests the history when it has a new point, or a state has changed. */
async function renewPast(snapshot) {
  const change = JSON.stringify(snapshot.changes[snapshot.changes.length - 1] || null);
  if (isAsking || (past && change === pastChange && Math.abs(snapshot.at - past.at) < past.step_millis)) return;
  isAsking = true;
  try {
    past = await (await api('history')).json();
    pastChange = change;
  } catch { /* the event stream reports the error */ } finally { isAsking = false; }
}

function render(snapshot) {
  last = snapshot;
  renewPast(snapshot);
  const ready = $('ready');
  ready.textContent = snapshot.process.ready ? 'accepting records' : 'not accepting records';
  ready.className = 'pill ' + (snapshot.process.ready ? 'good' : 'bad');
  ready.title = snapshot.process.not_ready.join('\n');
  const sinks = snapshot.sinks;
  const sum = (field) => sinks.reduce((total, sink) => total + sink[field], 0);
  const oldest = sinks.map((sink) => sink.oldest_age_seconds).filter((seconds) => seconds !== null);
  $('overview').replaceChildren(
    number('accepted', count(snapshot.ingest.records), 'total-accepted'),
    number('accepted now', rate(snapshot.ingest.rate), 'total-rate'),
    number('backlog', count(sum('records')), 'total-records'),
    number('oldest', oldest.length ? age(Math.max(...oldest)) : '–', 'total-oldest'),
    number('dead letters', count(sum('dead_letters')), 'total-dead'),
    number('disk free', size(snapshot.disk.free_bytes), 'disk-free'));
  for (const sink of sinks) {
    if (!cards.has(sink.name)) {
      cards.set(sink.name, new Card(sink.name));
      $('sinks').append(cards.get(sink.name).element);
    }
    cards.get(sink.name).update(sink, snapshot.at);
  }
  for (const [name, card] of cards) {
    if (!sinks.some((sink) => sink.name === name)) { card.element.remove(); cards.delete(name); }
  }
  $('changes').replaceChildren(...snapshot.changes.slice(-20).reverse().map((change) => h('li', {},
    h('time', {}, clock(change.at)), (change.sink ? change.sink + ' ' : '') + change.state + (change.reason ? ': ' + change.reason : ''))));
  $('about').textContent = 'version ' + snapshot.version + ' · up ' + age((snapshot.at - snapshot.process.started_at) / 1000) +
    ' · pid ' + snapshot.process.pid + ' · data in ' + snapshot.data_dir + ' · gRPC ' + (snapshot.process.grpc || 'off') + ' · HTTP ' + (snapshot.process.http || 'off');
  document.body.dataset.at = snapshot.at;
}

/** Server-sent events by fetch: EventSource cannot send the token. */
async function follow() {
  past = await (await api('history')).json();
  const reader = (await api('stream')).body.pipeThrough(new TextDecoderStream()).getReader();
  notice('');
  for (let buffer = ''; ;) {
    const { value, done } = await reader.read();
    if (done) throw new Error('livekit-spool is stopping.');
    buffer += value;
    for (let end; (end = buffer.indexOf('\n\n')) >= 0; buffer = buffer.slice(end + 2)) {
      const data = buffer.slice(0, end).split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5)).join('');
      if (data) render(JSON.parse(data));
    }
  }
}

async function stayConnected() {
  for (;;) {
    try { await follow(); } catch (error) {
      $('ready').textContent = 'not connected';
      $('ready').className = 'pill bad';
      const seen = last ? ' Last seen ' + clock(last.at) + '.' : '';
      notice((error instanceof TypeError ? 'livekit-spool does not answer.' : error.message) + seen);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
