/* Fetches what the server has written anew: after each change there, and while somebody types a search.
   The search is posted, so no name stands in an address. */
'use strict';

const form = document.querySelector('form[data-live]');
const place = document.getElementById(form.dataset.live);
const sign = form.querySelector('.live');
let asked = 0;
let shown = '';

async function refresh() {
  const number = ++asked;
  const answer = await fetch(form.dataset.from, { method: 'POST', body: new URLSearchParams(new FormData(form)) });
  if (answer.redirected || answer.status === 401) return location.reload(); // signed out meanwhile
  if (!answer.ok) return say('The server cannot answer now');
  const text = await answer.text();
  if (number !== asked) return; // a later answer has come before this one
  if (text !== shown) { // who is about to click, or reads, is not disturbed for nothing
    shown = text;
    keepingFocus(() => (place.innerHTML = text));
    localTimes(place);
  }
  tell(JSON.parse(answer.headers.get('x-counts') || '{}'));
  say('live');
}

function say(words) {
  sign.textContent = words;
  sign.classList.toggle('away', words !== 'live');
}

/* Who is on a study with the keyboard stays on it, wherever it has moved to. */
function keepingFocus(change) {
  const active = document.activeElement;
  const row = place.contains(active) ? active.closest('[data-study]') : null;
  const which = row ? [...row.querySelectorAll('a')].indexOf(active) : -1;
  change();
  if (which < 0) return;
  const links = place.querySelectorAll(`[data-study="${row.dataset.study}"] a`);
  if (links.length) links[Math.min(which, links.length - 1)].focus({ preventScroll: true });
}

function tell(counts) {
  for (const [group, number] of Object.entries(counts)) {
    const sign = document.querySelector(`[data-count="${group}"]`);
    if (sign) sign.textContent = number;
    if (sign) sign.toggleAttribute('data-none', number === 0);
  }
}

/* Year first, as in DICOM: no reader has to guess which is the month. Of today, the time is enough. */
function localTimes(within) {
  const two = number => String(number).padStart(2, '0');
  const today = new Date().toDateString();
  for (const time of within.querySelectorAll('time')) {
    const at = new Date(time.dateTime);
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    const clock = `${two(at.getHours())}:${two(at.getMinutes())}`;
    time.title = `${day} ${clock}:${two(at.getSeconds())}`;
    time.textContent = at.toDateString() === today ? clock : `${day} ${clock}`;
  }
}

let pause;
form.addEventListener('input', () => {
  clearTimeout(pause);
  pause = setTimeout(refresh, 200);
});
form.addEventListener('submit', event => {
  event.preventDefault();
  refresh();
});

/* A browser holds six connections to one place at most: a page that nobody sees gives its one back. */
let events;
function connect() {
  if (events) events.close();
  if (document.hidden) return;
  events = new EventSource('/api/events');
  events.addEventListener('changed', () => refresh().catch(() => say('not connected')));
  events.onerror = () => say('not connected');
}

localTimes(document);
document.addEventListener('visibilitychange', connect);
connect();
