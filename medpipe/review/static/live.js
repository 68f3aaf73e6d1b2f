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
    place.innerHTML = text;
    localTimes(place);
  }
  say('up to date');
}

function say(words) {
  sign.textContent = words;
  sign.classList.toggle('away', words !== 'up to date');
}

function localTimes(within) {
  for (const time of within.querySelectorAll('time')) time.textContent = new Date(time.dateTime).toLocaleString();
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
