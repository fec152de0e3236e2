// The list of sessions, and which view is shown: #sessions is the list, #sessions/RM_… a session, anything else the status.
const RANGES = { '1h': 'last hour', '6h': 'last 6 hours', '24h': 'last 24 hours', '168h': 'last 7 days', '720h': 'last 30 days' };
const RELOAD = 10000;
const LISTED = 100;

/** The list: its controls are built once, its rows with each answer that differs. */
class SessionList {
  constructor() {
    this.text = '';
    const changed = () => this.load(true);
    const select = (label, options, value) => h('select', { 'aria-label': label, 'data-key': label, onchange: changed }, ...Object.entries(options).map(([key, text]) => h('option', { value: key, selected: key === value }, text)));
    this.room = h('input', { type: 'search', placeholder: 'beginning of its name', 'data-key': 'room', maxlength: '200', autocomplete: 'off', oninput: () => { clearTimeout(this.typing); this.typing = setTimeout(changed, 250); } });
    this.range = select('Range', RANGES, '24h');
    this.order = select('Order', { worst: 'worst first', newest: 'newest first' }, 'worst');
    this.sink = select('Sink', { '': '' }, '');
    this.sinkLabel = h('label', { hidden: true }, 'from', this.sink);
    this.rows = h('tbody');
    this.table = h('table', { class: 'list' }, h('thead', {}, h('tr', {}, ...['', 'room', 'began', 'took', 'people', 'loss', 'score'].map((text) => h('th', {}, text)))), this.rows);
    this.empty = h('div', { class: 'empty', 'data-field': 'empty' });
    this.remark = h('p', { class: 'remark', 'data-field': 'remark' });
    this.element = h('div', {},
      h('div', { class: 'filters' }, h('label', { class: 'wide' }, 'room', this.room), h('label', {}, 'time', this.range), h('label', {}, 'order', this.order), this.sinkLabel),
      h('section', { class: 'card' }, this.table, this.empty, this.remark));
    this.rows.addEventListener('keydown', (event) => {
      if (event.key !== 'ArrowDown' && event.key !== 'ArrowUp') return;
      const links = [...this.rows.querySelectorAll('a')];
      const next = links[links.indexOf(document.activeElement) + (event.key === 'ArrowDown' ? 1 : -1)];
      if (next) { event.preventDefault(); next.focus(); }
    });
  }

  get isOpen() { return true; }

  async load(again) {
    document.title = 'Sessions – livekit-spool';
    const query = new URLSearchParams({ since: this.range.value, worst: String(this.order.value === 'worst'), limit: String(LISTED) });
    if (this.room.value) query.set('room_prefix', this.room.value);
    if (this.sink.value) query.set('sink', this.sink.value);
    const asked = this.asked = query.toString();
    if (again) this.element.setAttribute('aria-busy', 'true');
    let answer;
    try { answer = await (await api('sessions?' + asked)).text(); } finally { if (this.asked === asked) this.element.removeAttribute('aria-busy'); }
    if (this.asked !== asked) return;
    const read = JSON.parse(answer);
    const text = JSON.stringify([read.sessions, read.sink, read.sinks, read.more, read.complete_from, read.unread]);
    if (text === this.text) return;
    this.text = text;
    this.render(read);
  }

  fail(message) {
    this.text = '';
    this.rows.replaceChildren();
    this.table.hidden = true;
    this.remark.textContent = '';
    this.empty.replaceChildren(h('p', {}, message), h('p', {}, 'Sessions are read from what a sink has stored: MongoDB, PostgreSQL or files.'));
  }

  render(read) {
    const focused = document.activeElement && document.activeElement.dataset.key;
    if (read.sinks.length > 1 && this.sink.options.length !== read.sinks.length) this.sink.replaceChildren(...read.sinks.map((name) => h('option', { value: name, selected: name === read.sink }, name)));
    this.sinkLabel.hidden = read.sinks.length < 2;
    this.table.hidden = read.sessions.length === 0;
    this.empty.replaceChildren(...(read.sessions.length ? [] : [
      h('p', {}, this.room.value ? 'No room with this prefix in this time.' : 'No sessions in this time.'),
      h('p', {}, `They appear when their records are in sink ${read.sink} (${read.address}). Choose a longer time, or look at its backlog under “Status”.`)]));
    this.remark.textContent = [
      read.more ? `The ${this.order.value === 'worst' ? 'worst' : 'newest'} ${read.sessions.length} are listed; there are more.` : '',
      read.complete_from ? `The list is complete from ${dated(read.complete_from)} on only.` : '',
      ...(read.unread || []).slice(0, 3).map((line) => short(line, 200)),
    ].filter(Boolean).join(' ');
    this.rows.replaceChildren(...read.sessions.map((session) => this.row(session)));
    refocus(this.element, focused);
  }

  row(session) {
    const href = '#sessions/' + encodeURIComponent(session.room_sid);
    const severity = session.problems ? 'problem' : session.warnings ? 'warning' : session.worst ? 'note' : 'fine';
    const counts = [session.problems ? session.problems + (session.problems > 1 ? ' problems' : ' problem') : '', session.warnings ? session.warnings + (session.warnings > 1 ? ' warnings' : ' warning') : ''].filter(Boolean).join(', ');
    const took = (millis(session.ended_at || session.last_at) - millis(session.started_at)) / 1000;
    const link = h('a', { href, 'data-key': session.room_sid }, h('bdi', {}, short(session.room_name || session.room_sid, 100)));
    const cell = (name, value, sub, field) => h('td', { 'data-name': name, 'data-field': field || name }, value, sub ? h('span', { class: 'sub' }, ' ' + sub) : null);
    return h('tr', { 'data-room': session.room_sid, onclick: (event) => { if (event.target.closest('a') === null) location.hash = href; } },
      h('td', {}, severitySign(severity, counts || severity)),
      h('td', {}, link, h('div', { class: 'worst' }, h('bdi', {}, session.worst ? short(session.worst, 220) : 'nothing stands out'))),
      cell('began', dated(session.started_at)),
      cell('took', age(took), session.state === 'ended' ? (session.settled ? '' : 'settling') : session.state === 'active' ? 'active' : 'no end'),
      cell('people', count(session.participants), session.state === 'active' ? session.present + ' now' : ''),
      cell('loss', orDash(session.max_loss, (loss) => FORMATS.loss(loss * 100)), session.cut ? 'incomplete' : ''), cell('score', orDash(session.min_score, FORMATS.score)));
  }
}

const sessionList = new SessionList();
let shownView = null;

/** The view that the address names. */
function route() {
  const [view, sid] = location.hash.slice(1).split('/');
  const isSessions = view === 'sessions';
  $('status').hidden = isSessions;
  $('sessions').hidden = !isSessions;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.dataset.view === (isSessions ? 'sessions' : 'status')) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
  }
  if (!isSessions) { shownView = null; document.title = 'livekit-spool'; return; }
  let name = '';
  try { name = decodeURIComponent(sid || ''); } catch { /* not an address of ours: the list */ }
  if (name && shownView && shownView.sid === name) return;
  const from = shownView && shownView.sid;
  shownView = name ? new SessionView(name, sessionList.sink.value) : sessionList;
  $('sessions').replaceChildren(shownView.element);
  if (name) shownView.element.append(h('p', { class: 'empty' }, 'Reading…'));
  window.scrollTo(0, 0);
  reload().then(() => { if (!name && from) refocus(sessionList.element, from); });
}

/** Reads the shown view again. */
async function reload() {
  const view = shownView;
  if (!view) return;
  try {
    await view.load();
    view.failed = false;
  } catch (error) {
    if (view !== shownView) return;
    const message = error instanceof TypeError ? 'livekit-spool does not answer.' : error.message;
    if (view === sessionList) sessionList.fail(message);
    // What is shown already stays.
    else if (!view.session) view.element.replaceChildren(h('a', { class: 'back', href: '#sessions', 'data-key': 'back' }, '← All sessions'), h('p', { class: 'empty', 'data-field': 'empty' }, message));
  }
}

function startSessions() {
  window.addEventListener('hashchange', route);
  window.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && shownView && shownView !== sessionList && !$('ask').open) location.hash = '#sessions';
  });
  setInterval(() => { if (!document.hidden && shownView && shownView.isOpen) reload(); }, RELOAD);
  route();
}
