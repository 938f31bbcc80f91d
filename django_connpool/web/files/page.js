// Gets the page anew every few seconds, and puts its <main> in the place of the old one.
// Without this script the page reloads itself by a <meta>, and all else works the same.
"use strict";

(() => {
  const EVERY = 3000;
  const LONGEST = 20000;

  const opened = (main) =>
    new Map(Array.from(main.querySelectorAll("details[id]"), (one) => [one.id, one.open]));

  // Who fills in a form must not have it taken away.
  const isBusy = (main) =>
    main.contains(document.activeElement) && document.activeElement.closest("form") !== null;

  const replace = (fresh) => {
    const main = document.querySelector("main");
    const next = fresh && fresh.querySelector("main");
    if (!next || isBusy(main)) {
      return;
    }
    const was = opened(main);
    for (const one of next.querySelectorAll("details[id]")) {
      if (was.has(one.id)) {
        one.open = was.get(one.id);
      }
    }
    document.title = fresh.title;
    main.replaceWith(document.adoptNode(next));
  };

  const complain = (words) => {
    let line = document.querySelector(".stale");
    if (!line) {
      line = document.createElement("p");
      line.className = "stale";
      line.setAttribute("role", "status");
      document.querySelector("main").before(line);
    }
    line.textContent = words;
  };

  let failures = 0;
  let since = new Date();

  const look = () => {
    if (document.hidden) {
      window.setTimeout(look, EVERY);
      return;
    }
    // It parses as a document what an element would have to be given as text.
    const request = new XMLHttpRequest();
    request.open("GET", window.location.pathname);
    request.responseType = "document";
    request.timeout = LONGEST;
    request.onloadend = () => {
      if (request.status === 200 && request.response) {
        failures = 0;
        since = new Date();
        const line = document.querySelector(".stale");
        if (line) {
          line.remove();
        }
        replace(request.response);
      } else {
        failures += 1;
        const why = request.status ? `the site said ${request.status}` : "the site did not answer";
        complain(`This is from ${since.toLocaleTimeString()}: ${why}. Trying on.`);
      }
      window.setTimeout(look, EVERY * Math.min(1 + failures, 10));
    };
    request.send();
  };

  // What came of a button is told once, not after each reload.
  if (window.location.search) {
    window.history.replaceState(null, "", window.location.pathname + window.location.hash);
  }
  window.setTimeout(look, EVERY);
})();
