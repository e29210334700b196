/** The page at / and /notifications: signs in (in development), then shows the bell and the preferences. */
import "./notification-center.js";
import "./push.js";
import { create, safeAddress } from "./dom.js";
import { Gateway } from "./gateway.js";

const DEMO_USER = "demo";
const API = "https://api.example.org";
const OWN_PAGES = ["/", "/notifications"];
const CHANNELS = ["web", "email", "push"];
const TOAST = 5_000;

const gateway = new Gateway();
const part = (id) => document.getElementById(id);
let toasting = 0;

/** The session, after signing in as the demo user where that is allowed; null: nobody is signed in. */
async function session() {
  try {
    return await gateway.get("/api/session");
  } catch (error) {
    if (error.status !== 401 || !error.answer?.development) return null;
  }
  await gateway.post("/dev/token", { body: { user: DEMO_USER } });
  return gateway.get("/api/session");
}

function toast(text) {
  clearTimeout(toasting);
  part("toast").textContent = text;
  toasting = setTimeout(() => part("toast").replaceChildren(), TOAST);
}

function showBell() {
  const type = new URLSearchParams(location.search).get("type");
  const center = create("notification-center", { type });
  center.addEventListener("unread-count", ({ detail }) => {
    document.title = detail.count ? `(${detail.count}) Tocsin` : "Tocsin";
  });
  center.addEventListener("notification-open", (event) => {
    const address = safeAddress(event.detail.actionUrl);
    if (!address || OWN_PAGES.includes(new URL(address).pathname)) return;
    event.preventDefault();
    toast(`In your application this opens ${event.detail.actionUrl}`);
  });
  center.addEventListener("signed-out", () => toast("Your session has ended. Sign in again."));
  part("bell").append(center);
  if (location.pathname === "/notifications") center.open();
}

function showCommand(user, api) {
  const data = { userName: "Bob", comment: "Great post!", postId: "p-42", commentId: "c-7" };
  const event = `{"type": "comment", "recipients": [${JSON.stringify(user)}],\n       "data": ${JSON.stringify(data)}}`;
  part("command").textContent = [
    `curl ${api}/v1/events \\`,
    `  -H "Authorization: Bearer $TOCSIN_API_KEY" \\`,
    `  -H "Content-Type: application/json" \\`,
    `  -d '${event.replaceAll("'", "'\\''")}'`,
  ].join("\n");
  part("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(part("command").textContent);
    toast("Copied");
  });
  part("try").hidden = false;
}

async function showPreferences() {
  const { preferences } = await gateway.get("/api/preferences");
  part("choices").replaceChildren(...preferences.map(choice));
  part("preferences").hidden = preferences.length === 0;
  part("push").replaceChildren(create("push-switch"));
}

/** A row of the table: one type, a box for all of it and one for each channel. What is not saved goes back. */
function choice({ type, label, enabled, channels }) {
  const row = create("tr", {}, create("th", { scope: "row" }, label));
  const add = (name, checked, wish) => {
    const input = create("input", { type: "checkbox", "aria-label": `${label}: ${name}`, checked });
    input.addEventListener("change", async () => {
      try {
        await gateway.put("/api/preferences", { preferences: [{ type, ...wish(input.checked) }] });
        part("saved").textContent = "Saved.";
      } catch (error) {
        input.checked = !input.checked;
        part("saved").textContent = `Not saved: ${error.message}.`;
      }
    });
    row.append(create("td", {}, input));
  };
  add("all", enabled, (on) => ({ enabled: on }));
  for (const channel of CHANNELS) add(channel, channels[channel], (on) => ({ channels: { [channel]: on } }));
  return row;
}

function showDevelopment(user) {
  part("name").value = user;
  part("sign-in").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await gateway.post("/dev/token", { body: { user: part("name").value.trim() } });
      location.reload();
    } catch (error) {
      part("refused").textContent = `Not signed in: ${error.message}.`;
    }
  });
  part("development").hidden = false;
}

async function main() {
  const { user, development, api = API } = (await session()) ?? {};
  if (!user) {
    part("headline").textContent = "You are not signed in";
    part("explanation").textContent = "Sign in through your application, then come back to this page.";
    return;
  }
  part("user").textContent = user;
  showBell();
  showCommand(user, api);
  if (development) showDevelopment(user);
  await showPreferences();
}

main().catch((error) => toast(`The gateway did not answer: ${error.message}.`));
