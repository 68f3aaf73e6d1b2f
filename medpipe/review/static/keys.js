/* The worklist by keyboard: / searches, arrows go from study to study, Enter shows one, O opens its picture. */
'use strict';

const studies = () => [...document.querySelectorAll('#lines a.study')];
const search = document.querySelector('input[type=search]');

function step(by) {
  const all = studies();
  const row = document.activeElement.closest('tr[data-study]');
  const at = row ? all.indexOf(row.querySelector('a.study')) : -1;
  const next = at < 0 ? (by > 0 ? 0 : -1) : at + by;
  if (next < 0) return search.focus();
  if (next < all.length) all[next].focus();
}

document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target === search;
  if (event.target.type === 'radio') return; // arrows choose a group there
  if (event.key === 'ArrowDown') step(1);
  else if (event.key === 'ArrowUp' && !typing) step(-1);
  else if (event.key === '/' && !typing) search.focus();
  else if (event.key.toLowerCase() === 'o' && !typing) {
    const row = document.activeElement.closest('tr[data-study]');
    if (row && row.querySelector('a.open')) row.querySelector('a.open').click();
    return;
  } else return;
  event.preventDefault();
});
