/**
 * Keeps a page that the server made up to date: asks for it again, and puts in what changed.
 *
 * data-live    an element with an id whose attributes and content follow the server's
 * data-quiet   a form whose answer is this page: sent without leaving it
 * data-reload  a selector: once it finds something, the page is another one
 * time         shown in the reader's own zone, as data-long, data-date, data-clock, data-ago or data-second says
 */
const PERIOD = 1500;
let known = null;

const formats = {
  long: { dateStyle: "medium", timeStyle: "medium" },
  date: { weekday: "long", day: "numeric", month: "long" },
  clock: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  second: { timeStyle: "medium" },
  today: { hour: "2-digit", minute: "2-digit" },
  earlier: { day: "numeric", month: "short" },
};

function ago(then) {
  const minutes = Math.floor((Date.now() - then) / 60_000);
  if (minutes < 1) return "now";
  return minutes < 60 ? `${minutes} min ago` : written(then, "today");
}

const written = (date, format) => new Intl.DateTimeFormat(undefined, formats[format]).format(date);

function tellTimes(root = document) {
  for (const element of root.querySelectorAll("time")) {
    const { long, date, clock, second, ago: relative } = element.dataset;
    const then = new Date(date === undefined && clock === undefined ? element.dateTime : Date.now());
    const today = then.toDateString() === new Date().toDateString();
    let text;
    if (relative !== undefined) text = ago(then);
    else if (long !== undefined) text = written(then, "long");
    else if (date !== undefined) text = written(then, "date");
    else if (clock !== undefined) text = written(then, "clock");
    else if (second !== undefined) text = written(then, "second");
    else text = written(then, today ? "today" : "earlier");
    if (element.textContent !== text) element.textContent = text;
  }
}

/** Puts the server's element in place of ours; what is open stays open, and the focus where it was. */
function follow(ours, theirs) {
  for (const { id } of ours.querySelectorAll("details[open][id]")) {
    const same = theirs.querySelector(`#${CSS.escape(id)}`);
    if (same) same.open = true;
  }
  tellTimes(theirs);
  if (ours.isEqualNode(theirs)) return;
  const focused = ours.contains(document.activeElement) ? document.activeElement : null;
  const scrolled = ours.scrollTop;
  ours.replaceWith(theirs);
  theirs.scrollTop = scrolled;
  if (!focused) return;
  const again = focused.id && theirs.querySelector(`#${CSS.escape(focused.id)}`);
  (again || theirs.querySelector("button, a") || theirs).focus({ preventScroll: true });
}

async function look() {
  const headers = known ? { "If-None-Match": known } : {};
  let answer;
  try {
    answer = await fetch(location.href, { headers, cache: "no-store" });
  } catch {
    return; // it is being started again
  }
  if (answer.status !== 200) return;
  known = answer.headers.get("etag");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const theirs of page.querySelectorAll("[data-live][id]")) {
    const ours = document.getElementById(theirs.id);
    if (ours) follow(ours, document.adoptNode(theirs));
  }
  const waiting = document.querySelector("[data-reload]");
  if (waiting && document.querySelector(waiting.dataset.reload)) location.reload();
}

async function watch() {
  for (;;) {
    tellTimes();
    if (!document.hidden) await look();
    await new Promise((resolve) => {
      setTimeout(resolve, PERIOD);
      document.addEventListener("visibilitychange", resolve, { once: true });
      document.addEventListener("looked-at", resolve, { once: true });
    });
  }
}

addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.quiet === undefined) {
    // A tap opens another tab, and takes the notification off this one.
    if (form.target === "_blank") setTimeout(() => document.dispatchEvent(new Event("looked-at")), 300);
    return;
  }
  event.preventDefault();
  for (const button of form.querySelectorAll("button")) button.disabled = true;
  try {
    await fetch(form.action, { method: "POST", redirect: "manual" });
  } finally {
    for (const button of form.querySelectorAll("button")) button.disabled = false;
  }
  await look();
});

document.querySelector("[aria-current=true][id]")?.scrollIntoView({ block: "nearest" });
watch();
