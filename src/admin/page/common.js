'use strict';
// Everything shown is set as text, never as markup: names in records come from outside.
const $ = (id) => document.getElementById(id);
let token = sessionStorage.getItem('token') || '';

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const count = (n) => n.toLocaleString('en-US');
function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return (unit === 0 || bytes >= 100 ? bytes.toFixed(0) : bytes.toFixed(1).replace(/\.0$/, '')) + ' ' + units[unit];
}
function age(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const s = Math.floor(seconds);
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' m ' + (s % 60) + ' s';
  if (s < 86400) return Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' m';
  return Math.floor(s / 86400) + ' d ' + Math.floor(s % 86400 / 3600) + ' h';
}
const rate = (perSecond) => (perSecond >= 100 ? count(Math.round(perSecond)) : perSecond.toFixed(1)) + '/s';
const clock = (millis) => new Date(millis).toLocaleTimeString([], { hour12: false });

const compact = (n) => n < 1000 ? String(+n.toPrecision(3)) : n.toLocaleString('en-US', { notation: 'compact', maximumFractionDigits: 1 });
const minute = (millis) => new Date(millis).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hour12: false });

/** The end of an axis: 1, 2 or 5 times a power of ten. */
function axisEnd(highest) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, highest)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((end) => end >= highest);
}

async function api(path, options) {
  const headers = token ? { Authorization: 'Bearer ' + token } : {};
  const response = await fetch('api/v1/' + path, { ...options, headers, cache: 'no-store' });
  if (response.status === 401) throw new Error('This needs the admin token: press “Token…”.');
  if (!response.ok) {
    const text = await response.text();
    let message = text;
    try { message = JSON.parse(text).error || text; } catch { /* not JSON: use the text itself */ }
    throw new Error(message || 'HTTP ' + response.status);
  }
  return response;
}

function notice(message) {
  $('notice').hidden = !message;
  $('notice').textContent = message || '';
}

function number(name, value, field, extra) {
  return h('div', {}, h('div', { class: 'name' }, name), h('div', { class: value.length > 9 ? 'value long' : 'value', 'data-field': field }, value), extra);
}
