// Keeps the visitor's key for as long as the tab is open, and says what to start when the web UI is away.
const KEY = "stepserve.key";
const NOTE = "stepserve-away";
const PATIENCE_MS = 1500;
const WORDS =
  "The web UI does not answer. Where the server runs it is started again within seconds, and this page goes on by itself." +
  " If the server is stopped, start it: stepserve up. A web UI of its own: python -m ui.";

export default function ({ data, setStateValue }) {
  if (data.key) sessionStorage.setItem(KEY, data.key);
  else if (data.removed) sessionStorage.removeItem(KEY);
  else if (sessionStorage.getItem(KEY)) setStateValue("key", sessionStorage.getItem(KEY));
  watch();
}

function watch() {
  if (window.stepserveWatched) return;
  window.stepserveWatched = true;
  const app = () => document.querySelector('[data-testid="stApp"]');
  let since = null;
  setInterval(() => {
    const there = app();
    const connected = !there || there.getAttribute("data-test-connection-state") === "CONNECTED";
    since = connected ? null : (since ?? Date.now());
    show(since !== null && Date.now() - since > PATIENCE_MS);
  }, 500);
}

function show(away) {
  const before = document.getElementById(NOTE);
  if (!away) {
    before?.remove();
    return;
  }
  if (before) return;
  const note = document.createElement("div");
  note.id = NOTE;
  note.setAttribute("role", "alert");
  note.textContent = WORDS;
  const style = document.createElement("style");
  style.textContent =
    `#${NOTE} { position: fixed; inset: auto 0 0 0; z-index: 10000000; padding: 1rem; background: #7a1f1f; color: #fff;` +
    ` font: 1rem/1.5 system-ui, sans-serif }` +
    ` body:has(> #${NOTE}) [data-testid="stDialog"] { display: none }`;
  note.append(style);
  document.body.append(note);
}
