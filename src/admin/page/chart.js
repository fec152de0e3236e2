// A session over time: its participants as bars, below them loss, jitter, RTT, bitrate and score, all on one axis.
const LEFT = 46;
const RIGHT = 10;
const PLOT = 52;
const PLOT_GAP = 27;
const ROW = { name: 15, lane: 11, track: 5, gap: 9 };
const ROWS = 12;
const LINES = 16;
const COLOURS = 8;
const METRICS = [
  { key: 'loss', name: 'loss', unit: '%', of: (interval) => interval.loss * 100, join: 'max', least: 1 },
  { key: 'jitter_us', name: 'jitter', unit: 'ms', of: (interval) => interval.jitter_us / 1000, join: 'max', least: 10 },
  { key: 'rtt_ms', name: 'RTT', unit: 'ms', of: (interval) => interval.rtt_ms, join: 'max', least: 10 },
  { key: 'bitrate', name: 'bitrate', unit: 'bit/s', of: (interval) => interval.bitrate, join: 'sum', least: 1000 },
  { key: 'score', name: 'score', unit: '1 … 4.5', of: (interval) => interval.score, join: 'min', from: 1, to: 4.5 },
];
const JOINS = { max: (a, b) => Math.max(a, b), min: (a, b) => Math.min(a, b), sum: (a, b) => a + b };
const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 604800];

const millis = (time) => time ? Date.parse(time) : null;
const short = (text, length) => { const chars = Array.from(text.slice(0, 4 * length)); return chars.length > length || text.length > 4 * length ? chars.slice(0, length).join('') + '…' : text; };
const bits = (n) => n >= 1e6 ? (n / 1e6).toFixed(1) + ' Mbit/s' : n >= 1000 ? Math.round(n / 1000) + ' kbit/s' : Math.round(n) + ' bit/s';
const FORMATS = {
  loss: (n) => n === 0 ? '0 %' : n < 0.1 ? '< 0.1 %' : n.toFixed(1) + ' %', jitter_us: (n) => n.toFixed(n < 10 ? 1 : 0) + ' ms',
  rtt_ms: (n) => Math.round(n) + ' ms', bitrate: bits, score: (n) => n.toFixed(1),
};

/** What distinguishes a participant from others: its identity, or the only connection of one whose identity was removed. */
const keyOf = (participant) => participant.identity || participant.connections[0].sid;
/** Whom an observation is about. */
const subjectOf = (seen) => seen.identity || seen.connection_sid;

/** The streams of a participant, each a track in one direction. */
function streamsOf(participant) {
  return participant.connections.flatMap((connection) => [
    ...connection.published.map((track) => ({ direction: 'up', label: sourceName(track) + ' ↑', quality: track.upstream })),
    ...connection.subscribed.map((track) => ({ direction: 'down', label: sourceName(track) + ' of ' + short(track.publisher_identity || '?', 20) + ' ↓', quality: track.downstream })),
  ]).filter((stream) => stream.quality.intervals.length > 0);
}

const sourceName = (track) => (track.source && track.source !== 'UNKNOWN' ? track.source : track.kind || 'track').toLowerCase().replaceAll('_', ' ');

/** One step function of several streams: [{from, to, value}], where any of them has a value. */
function combine(streams, metric) {
  const spans = streams.map((stream) => stream.quality.intervals.filter((interval) => typeof interval[metric.key] === 'number')
    .map((interval) => ({ from: millis(interval.from), to: millis(interval.to), value: metric.of(interval) })));
  if (spans.length === 1) return spans[0];
  const times = [...new Set(spans.flat().flatMap((span) => [span.from, span.to]))].sort((a, b) => a - b);
  const next = spans.map(() => 0);
  const steps = [];
  for (let i = 0; i + 1 < times.length; i += 1) {
    let value = null;
    spans.forEach((own, k) => {
      while (next[k] < own.length && own[next[k]].to <= times[i]) next[k] += 1;
      const span = own[next[k]];
      if (span && span.from <= times[i]) value = value === null ? span.value : JOINS[metric.join](value, span.value);
    });
    if (value !== null) steps.push({ from: times[i], to: times[i + 1], value });
  }
  return steps;
}

/** The figures of streams over their whole time. */
function totals(streams) {
  const qualities = streams.map((stream) => stream.quality);
  const sum = (field) => qualities.reduce((total, quality) => total + quality[field], 0);
  const best = (field, join) => { const known = qualities.map((quality) => quality[field]).filter((value) => typeof value === 'number'); return known.length ? known.reduce(JOINS[join]) : null; };
  const seconds = Math.max(...qualities.map((quality) => (millis(quality.intervals[quality.intervals.length - 1].to) - millis(quality.intervals[0].from)) / 1000));
  const loss = best('loss', 'max');
  const jitter = best('max_jitter_us', 'max');
  return { loss: loss === null ? null : loss * 100, jitter_us: jitter === null ? null : jitter / 1000, rtt_ms: best('max_rtt_ms', 'max'),
    bitrate: seconds > 1 ? sum('bytes') * 8 / seconds : null, score: best('min_score', 'min') };
}

class Chart {
  /** `choose(key)` is called when a row is activated. */
  constructor(choose) {
    this.choose = choose;
    this.at = null;
    this.rowsShown = ROWS;
    this.image = svg('svg', { class: 'chart', role: 'group' });
    this.rows = h('tbody');
    this.moment = h('th');
    this.element = h('div', { 'data-field': 'chart' }, this.image, h('div', { class: 'scroll', 'aria-live': 'polite' }, h('table', { class: 'figures' },
      h('thead', {}, h('tr', {}, this.moment, ...METRICS.map((metric) => h('th', {}, metric.name)))), this.rows)));
    new ResizeObserver(() => this.draw()).observe(this.image);
    this.image.addEventListener('pointermove', (event) => this.point(this.time(event.clientX - this.image.getBoundingClientRect().left)));
    this.image.addEventListener('pointerleave', () => this.point(null));
  }

  /** `shown`: the key of the participant whose streams are shown one by one, or null: each participant's together. */
  update(session, shown) {
    this.session = session;
    this.shown = shown;
    const joined = session.participants.flatMap((participant) => participant.connections.map((connection) => millis(connection.joined_at)).filter(Boolean));
    this.begin = Math.min(millis(session.started_at), ...joined);
    this.end = Math.max(millis(session.ended_at || session.last_at), this.begin + 1000);
    this.lines = this.chosenLines();
    this.draw();
  }

  chosenLines() {
    const participants = this.session.participants;
    const direct = (streams, direction) => streams.filter((stream) => stream.direction === direction);
    let groups;
    const one = participants.find((participant) => keyOf(participant) === this.shown);
    if (one) {
      groups = streamsOf(one).map((stream, i) => ({ label: stream.label, direction: stream.direction, colour: i % COLOURS, streams: [stream] }));
    } else {
      groups = participants.flatMap((participant, i) => {
        const streams = streamsOf(participant);
        const name = short(keyOf(participant), 24);
        return [['up', ' ↑'], ['down', ' ↓']].map(([direction, arrow]) => ({ label: name + arrow, direction, colour: i % COLOURS, streams: direct(streams, direction) }));
      }).filter((group) => group.streams.length > 0);
    }
    this.left = Math.max(0, groups.length - LINES);
    // The shown participant keeps what it publishes.
    const worst = (group) => one && group.direction === 'up' ? Infinity : Math.max(...group.streams.map((stream) => stream.quality.loss || 0));
    if (this.left) groups = groups.sort((a, b) => worst(b) - worst(a)).slice(0, LINES);
    return groups.map((group) => ({ ...group, total: totals(group.streams), steps: Object.fromEntries(METRICS.map((metric) => [metric.key, combine(group.streams, metric)])) }));
  }

  /** The participants that have a row, in the order of joining: if there are too many, those about whom something stands out. */
  drawn() {
    const { participants, observations } = this.session;
    if (participants.length <= this.rowsShown) return participants;
    const rank = (participant) => { const first = observations.findIndex((seen) => subjectOf(seen) === keyOf(participant)); return keyOf(participant) === this.shown ? -1 : first < 0 ? observations.length : first; };
    const chosen = new Set(participants.map((participant) => [rank(participant), participant]).sort((a, b) => a[0] - b[0]).slice(0, this.rowsShown).map((pair) => pair[1]));
    return participants.filter((participant) => chosen.has(participant));
  }

  x(at) { return LEFT + (at - this.begin) / (this.end - this.begin) * (this.width - LEFT - RIGHT); }
  time(x) { return Math.min(this.end, Math.max(this.begin, this.begin + (x - LEFT) / (this.width - LEFT - RIGHT) * (this.end - this.begin))); }

  draw() {
    this.width = this.image.clientWidth;
    if (!this.session || this.width < 120) return;
    const parts = [];
    let y = 2;
    for (const participant of this.drawn()) {
      const row = this.row(participant, y);
      parts.push(row.element);
      y += row.height;
    }
    if (this.lines.length > 0) {
      y += 16;
      for (const metric of METRICS) { parts.push(...this.panel(metric, y)); y += PLOT + PLOT_GAP; }
      y -= PLOT_GAP - 24;
    } else y += 18;
    this.height = y;
    const marks = this.ticks();
    parts.unshift(svg('path', { class: 'grid', d: marks.map(([at]) => `M${this.x(at).toFixed(1)} 0V${y - 18}`).join('') }));
    parts.push(...marks.map(([at, label]) => svg('text', { x: this.x(at).toFixed(1), y: y - 4, 'text-anchor': 'middle' }, label)));
    this.line = svg('path', { class: 'cursor', d: '' });
    this.image.setAttribute('height', y);
    this.image.replaceChildren(...parts, this.line);
    this.point(this.at);
  }

  row(participant, top) {
    const x = (at) => this.x(Math.min(this.end, Math.max(this.begin, at)));
    const bar = (kind, from, to, y, title) => svg('rect', { class: kind, x: x(from).toFixed(1), y, width: Math.max(1.5, x(to) - x(from)).toFixed(1), height: 8, rx: 2 }, svg('title', {}, title));
    const sign = (kind, at, y, d, title) => svg('path', { class: kind, transform: `translate(${x(at).toFixed(1)} ${y + 4})`, d }, svg('title', {}, title));
    const parts = [];
    const lanes = [];
    let y = top + ROW.name + 3;
    const ends = [];
    for (const connection of participant.connections) {
      const from = millis(connection.joined_at) || millis(connection.active_at) || this.begin;
      const to = millis(connection.left_at) || Math.min(this.end, from + connection.seconds * 1000);
      let lane = lanes.findIndex((end) => end <= from);
      if (lane < 0) lane = lanes.push(0) - 1;
      lanes[lane] = to;
      const at = y + lane * ROW.lane;
      const active = millis(connection.active_at);
      const left = connection.left_at ? clock(to) + ' left' + (connection.reason ? ': ' + connection.reason : '') : '';
      if (active === null && connection.aborted) parts.push(bar('never', from, to, at, 'never active, aborted'));
      else if (active === null) parts.push(bar(connection.published.length || connection.subscribed.length ? 'here' : 'never', from, to, at, 'no record that it became active'));
      else {
        if (active > from) parts.push(bar('joining', from, active, at, 'connecting: ' + (connection.connect_ms === undefined ? Math.round(active - from) : connection.connect_ms) + ' ms'));
        parts.push(bar('here', active, to, at, clock(active) + ' active' + (connection.transport ? ' over ' + connection.transport : '')));
      }
      for (const time of connection.resumed_at) parts.push(sign('event', millis(time), at, 'M0 -6L5 4H-5Z', clock(millis(time)) + ' resumed'));
      for (const time of connection.reconnected_at) parts.push(sign('event', millis(time), at, 'M0 -6L6 0L0 6L-6 0Z', clock(millis(time)) + ' reconnected'));
      if (left) ends.push(sign(connection.reason && connection.reason !== 'CLIENT_INITIATED' ? 'failed' : 'left', to, at, 'M-1 -5H1.5V5H-1Z', left));
    }
    y += Math.max(1, lanes.length) * ROW.lane;
    for (const track of participant.connections.flatMap((connection) => connection.published).slice(0, 6)) {
      const from = millis(track.published_at);
      if (from === null) continue;
      const to = millis(track.unpublished_at) || this.end;
      const kind = { CAMERA: 'camera', MICROPHONE: 'microphone' }[track.source] || (track.source.startsWith('SCREEN') ? 'screen' : 'other');
      const d = (from, to) => `M${x(from).toFixed(1)} ${y + 1.5}H${Math.max(x(to), x(from) + 1.5).toFixed(1)}`;
      let at = from;
      const sounding = [];
      for (const span of track.muted) { sounding.push(d(at, millis(span.from))); at = span.to ? millis(span.to) : to; }
      if (at < to) sounding.push(d(at, to));
      const title = () => svg('title', {}, sourceName(track) + ' ' + track.mime + ', ' + clock(from) + ' – ' + clock(to) + (track.muted.length ? ', muted at times' : ''));
      parts.push(svg('path', { class: 'track muted ' + kind, d: d(from, to) }, title()), svg('path', { class: 'track ' + kind, d: sounding.join('') }, title()));
      y += ROW.track;
    }
    parts.push(...ends);
    const height = y + ROW.gap - top;
    const name = keyOf(participant);
    const about = participant.kind && participant.kind !== 'STANDARD' ? ' · ' + participant.kind.toLowerCase() : '';
    const choose = () => this.choose(this.shown === name ? null : name);
    const element = svg('g', { class: 'row', tabindex: '0', role: 'button', 'data-key': 'row ' + name.slice(0, 100), 'aria-pressed': String(this.shown === name), 'aria-label': this.described(participant) },
      svg('rect', { class: 'back', x: 0, y: top, width: this.width, height: height - 2, rx: 4 }),
      svg('text', { class: 'who', x: LEFT, y: top + 12 }, short(name, Math.floor((this.width - LEFT) / 9)) + about), ...parts);
    element.addEventListener('click', choose);
    element.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); choose(); }
      if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
        const rows = [...this.image.querySelectorAll('.row')];
        const next = rows[rows.indexOf(element) + (event.key === 'ArrowDown' ? 1 : -1)];
        if (next) { event.preventDefault(); next.focus(); }
      }
      if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
        event.preventDefault();
        const step = (this.end - this.begin) / 60;
        this.point(this.at === null ? this.begin : Math.min(this.end, Math.max(this.begin, this.at + (event.key === 'ArrowRight' ? step : -step))));
      }
    });
    return { element, height };
  }

  /** A row as text. */
  described(participant) {
    const parts = participant.connections.map((connection) => [
      connection.joined_at ? 'joined ' + clock(millis(connection.joined_at)) : null,
      connection.active_at ? null : 'never active',
      connection.resumed_at.length ? 'resumed ' + connection.resumed_at.length + ' times' : null,
      connection.reconnected_at.length ? 'reconnected ' + connection.reconnected_at.length + ' times' : null,
      connection.left_at ? 'left ' + clock(millis(connection.left_at)) + (connection.reason ? ' ' + connection.reason : '') : null,
    ].filter(Boolean).join(', '));
    return short(keyOf(participant), 60) + ': ' + parts.join('; ');
  }

  panel(metric, top) {
    const values = this.lines.flatMap((line) => line.steps[metric.key].map((step) => step.value));
    const from = metric.from || 0;
    const to = metric.to || axisEnd(Math.max(metric.least, ...values));
    const y = (value) => top + PLOT - (Math.min(to, Math.max(from, value)) - from) / (to - from) * PLOT;
    const text = (x, y, anchor, content) => svg('text', { x, y, 'text-anchor': anchor }, content);
    const parts = [svg('path', { class: 'grid', d: [0, PLOT / 2, PLOT].map((offset) => `M${LEFT} ${top + offset}H${this.width - RIGHT}`).join('') }),
      text(LEFT, top - 6, 'start', metric.name + ', ' + metric.unit + (values.length ? '' : ': no figures')),
      text(LEFT - 5, top + 4, 'end', compact(to)), text(LEFT - 5, top + PLOT + 4, 'end', String(from))];
    for (const line of this.lines) {
      let d = '';
      let end = null;
      for (const step of line.steps[metric.key]) {
        const [x, v] = [this.x(step.from).toFixed(1), y(step.value).toFixed(1)];
        d += (end !== null && step.from - end < 2000 ? 'L' : 'M') + `${x} ${v}H${this.x(step.to).toFixed(1)}`;
        end = step.to;
      }
      parts.push(svg('path', { class: `series ${line.direction} s${line.colour}`, 'data-metric': metric.key, d }));
    }
    return parts;
  }

  ticks() {
    const wide = Math.max(2, Math.floor((this.width - LEFT - RIGHT) / 76));
    const every = (TICKS.find((seconds) => (this.end - this.begin) / 1000 / seconds <= wide) || 604800) * 1000;
    const zone = new Date(this.begin).getTimezoneOffset() * 60000;
    const ticks = [];
    for (let at = Math.ceil((this.begin - zone) / every) * every + zone; at <= this.end; at += every) {
      const label = every >= 86400000 ? new Date(at).toLocaleDateString([], { month: 'short', day: 'numeric' }) : every >= 60000 ? minute(at) : clock(at);
      if (this.x(at) > 22 && this.x(at) < this.width - 26) ticks.push([at, label]);
    }
    return ticks;
  }

  /** Shows the figures of a time, or of all of it. */
  point(at) {
    this.at = at;
    this.line.setAttribute('d', at === null ? '' : `M${this.x(at).toFixed(1)} 0V${this.height - 18}`);
    this.moment.textContent = at === null ? 'whole session' : 'at ' + clock(at);
    const value = (line, metric) => {
      if (at === null) return line.total[metric.key];
      const step = line.steps[metric.key].find((step) => step.from <= at && at < step.to);
      return step ? step.value : null;
    };
    this.rows.replaceChildren(...this.lines.map((line) => h('tr', {},
      h('td', {}, svg('svg', { class: 'sign', viewBox: '0 -5 22 10', 'aria-hidden': 'true' }, svg('path', { class: `series ${line.direction} s${line.colour}`, d: 'M1 0H21' })), h('bdi', {}, line.label)),
      ...METRICS.map((metric) => { const known = value(line, metric); return h('td', {}, known === null || known === undefined ? '–' : FORMATS[metric.key](known)); }))));
    if (this.left) this.rows.append(h('tr', {}, h('td', { colspan: METRICS.length + 1 }, this.left + ' more, with less loss')));
  }
}
