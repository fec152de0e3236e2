// The last hour of a sink: rates in and out above, the backlog below, state changes as marks on the time axis they share.
const SPANS = [5, 10, 20, 30, 60];
const TOP = { rates: 18, backlog: 94 };
const PANEL = 54;
const MARKS = TOP.backlog + PANEL + 9;
const HEIGHT = MARKS + 24;
const MARK = { bad: 'M-5 -4H5L0 5Z', good: 'M-5 4H5L0 -5Z', other: 'M0 -5L5 0L0 5L-5 0Z' };
const MEANING = { bad: 'problem', good: 'healthy', other: 'other change' };
const TABLE_ROWS = 12;

const markOf = (state) => STATES[state] === 'bad' ? 'bad' : state === 'idle' || state === 'delivering' ? 'good' : 'other';

class Plot {
  constructor(name) {
    this.name = name;
    this.image = svg('svg', { class: 'plot', role: 'img', height: HEIGHT });
    this.rows = h('tbody');
    this.changes = h('ol');
    this.summary = h('summary');
    this.details = h('details', { 'data-field': 'figures' }, this.summary, this.changes,
      h('div', { class: 'scroll' }, h('table', {},
        h('thead', {}, h('tr', {}, ...['time', 'in', 'out', 'backlog'].map((text) => h('th', {}, text)))), this.rows)));
    const sign = (kind) => svg('svg', { class: 'sign ' + kind, viewBox: '-6 -6 12 12', 'aria-hidden': 'true' }, svg('path', { d: MARK[kind] }));
    const key = (look, text) => h('span', {}, look, ' ' + text);
    const line = (kind) => svg('svg', { class: 'sign', viewBox: '0 -6 22 12', 'aria-hidden': 'true' }, svg('path', { class: 'line ' + kind, d: 'M1 0H21' }));
    this.element = h('div', {},
      h('div', { class: 'legend' }, key(line('in'), 'in'), key(line('out'), 'out'),
        key(svg('svg', { class: 'sign', viewBox: '0 -6 22 12', 'aria-hidden': 'true' }, svg('path', { class: 'area', d: 'M1 5V-5H21V5Z' })), 'backlog'),
        ...Object.keys(MARK).map((kind) => key(sign(kind), MEANING[kind]))),
      this.image, this.details);
    new ResizeObserver(() => this.draw()).observe(this.image);
    this.details.addEventListener('toggle', () => this.describe());
  }

  /** `past`: the API's history, or null; `live`: the newest snapshot of the sink. */
  update(past, live, now) {
    const own = past && past.sinks[this.name] || { points: [], changes: [] };
    const length = own.points.length;
    this.points = own.points.map((point, i) => ({ at: past.at - (length - 1 - i) * past.step_millis, ...(point || { gap: true }) }));
    const delivery = live.delivery || {};
    const last = this.points[length - 1];
    if (last && now - last.at > 2 * past.step_millis) this.points.push({ at: now, gap: true });
    this.points.push({ at: now, records: live.records, rate_in: delivery.rate_in || 0, rate_out: delivery.rate_out || 0 });
    const minutes = (now - this.points[0].at) / 60000;
    this.minutes = SPANS.find((span) => minutes <= span) || 60;
    this.end = now;
    this.begin = now - this.minutes * 60000;
    this.points = this.points.filter((point) => point.at >= this.begin);
    this.marks = own.changes.filter((change) => change.at >= this.begin && change.at <= now);
    this.draw();
    this.describe();
  }

  /** Pieces of a line, one between each two gaps. */
  pieces() {
    const pieces = [[]];
    for (const point of this.points) {
      if (point.gap) pieces.push([]); else pieces[pieces.length - 1].push(point);
    }
    return pieces.filter((piece) => piece.length > 0);
  }

  known() { return this.points.filter((point) => !point.gap); }

  draw() {
    const width = this.image.clientWidth;
    if (!this.points || width < 120) return;
    const highest = (...fields) => Math.max(...this.known().flatMap((point) => fields.map((field) => point[field])));
    const rates = axisEnd(highest('rate_in', 'rate_out'));
    const records = axisEnd(highest('records'));
    const left = 10 + 7 * Math.max(compact(rates).length, compact(records).length, 2);
    const right = width - 8;
    const x = (at) => left + (at - this.begin) / (this.end - this.begin) * (right - left);
    const text = (x, y, anchor, content) => svg('text', { x, y, 'text-anchor': anchor }, content);
    const parts = [];
    for (const [top, end, unit] of [[TOP.rates, rates, 'records/s'], [TOP.backlog, records, 'backlog, records']]) {
      parts.push(svg('path', { class: 'grid', d: [0, PANEL / 2, PANEL].map((y) => `M${left} ${top + y}H${right}`).join('') }),
        text(left, top - 6, 'start', unit), text(left - 5, top + 4, 'end', compact(end)), text(left - 5, top + PANEL + 4, 'end', '0'));
    }
    const line = (top, end, field) => this.pieces().map((piece) => 'M' + piece.map((point) =>
      x(point.at).toFixed(1) + ' ' + (top + PANEL - point[field] / end * PANEL).toFixed(1)).join('L') + (piece.length === 1 ? 'h1' : '')).join('');
    const area = this.pieces().map((piece) => `M${x(piece[0].at).toFixed(1)} ${TOP.backlog + PANEL}L` + piece.map((point) =>
      x(point.at).toFixed(1) + ' ' + (TOP.backlog + PANEL - point.records / records * PANEL).toFixed(1)).join('L') +
      `L${Math.max(x(piece[0].at) + 1, x(piece[piece.length - 1].at)).toFixed(1)} ${TOP.backlog + PANEL}Z`).join('');
    parts.push(svg('path', { class: 'area', d: area }), svg('path', { class: 'line backlog', d: line(TOP.backlog, records, 'records') }),
      svg('path', { class: 'line in', d: line(TOP.rates, rates, 'rate_in') }), svg('path', { class: 'line out', d: line(TOP.rates, rates, 'rate_out') }));
    parts.push(...this.ticks(left, right, x).map(([at, label]) => text(at, HEIGHT - 3, label === 'now' ? 'end' : 'middle', label)));
    parts.push(...this.clusters(x).map((cluster) => {
      const kind = ['bad', 'other', 'good'].find((kind) => cluster.some((change) => markOf(change.state) === kind));
      const at = x(cluster[0].at).toFixed(1);
      return svg('g', { class: 'mark ' + kind, 'data-states': cluster.map((change) => change.state).join(' ') },
        svg('title', {}, cluster.map((change) => this.changeText(change)).join('\n')),
        svg('path', { class: 'at', d: `M${at} ${TOP.rates}V${TOP.rates + PANEL}M${at} ${TOP.backlog}V${MARKS - 6}` }),
        svg('path', { class: 'sign', transform: `translate(${at} ${MARKS})`, d: MARK[kind] }),
        svg('rect', { class: 'touch', x: at - 7, y: TOP.rates, width: 14, height: MARKS + 6 - TOP.rates }));
    }));
    this.image.replaceChildren(...parts);
  }

  /** Times at whole minutes, and now. */
  ticks(left, right, x) {
    const every = (right - left < 420 ? { 5: 2, 10: 5, 20: 5, 30: 10, 60: 20 } : { 5: 1, 10: 2, 20: 5, 30: 5, 60: 10 })[this.minutes] * 60000;
    const zone = new Date(this.end).getTimezoneOffset() * 60000;
    const ticks = [[right, 'now']];
    for (let at = Math.ceil((this.begin - zone) / every) * every + zone; at < this.end; at += every) {
      if (x(at) < right - 48) ticks.push([x(at), minute(at)]);
    }
    return ticks;
  }

  /** Changes whose marks would overlap share one mark. */
  clusters(x) {
    const clusters = [];
    for (const change of this.marks) {
      const open = clusters[clusters.length - 1];
      if (open && x(change.at) - x(open[0].at) < 12) open.push(change); else clusters.push([change]);
    }
    return clusters;
  }

  changeText(change) { return clock(change.at) + ' ' + change.state + (change.reason ? ': ' + change.reason : ''); }

  /** The same figures as text. */
  describe() {
    if (!this.points) return;
    const known = this.known();
    const now = known[known.length - 1];
    const highest = (field) => Math.max(...known.map((point) => point[field]));
    const changes = this.marks.length === 1 ? '1 state change' : this.marks.length + ' state changes';
    this.image.setAttribute('aria-label', `${this.name}, the last ${this.minutes} minutes: backlog ${count(now.records)} records, at most ` +
      `${count(highest('records'))}; in ${rate(now.rate_in)}, at most ${rate(highest('rate_in'))}; out ${rate(now.rate_out)}, at most ` +
      `${rate(highest('rate_out'))}; ${changes}.`);
    this.summary.textContent = `${changes}, figures of the last ${this.minutes} minutes`;
    if (!this.details.open) return;
    this.changes.replaceChildren(...this.marks.slice().reverse().map((change) => h('li', {}, this.changeText(change))));
    const rows = new Map();
    for (const point of this.points) rows.set(Math.floor((point.at - this.begin) / (this.end - this.begin) * TABLE_ROWS), point);
    this.rows.replaceChildren(...[...rows.values()].reverse().map((point) => h('tr', {}, h('td', {}, clock(point.at)),
      ...(point.gap ? ['–', '–', '–'] : [rate(point.rate_in), rate(point.rate_out), count(point.records)]).map((text) => h('td', {}, text)))));
  }
}
