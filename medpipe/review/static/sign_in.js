/* A link from another system arrives without our cookie (SameSite=Strict): who is signed in already goes on at once. */
'use strict';

fetch('/api/me').then(answer => {
  if (answer.ok) location.replace(document.querySelector('form.sign-in').dataset.next);
});
