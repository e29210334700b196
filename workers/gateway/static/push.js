/**
 * <push-switch>: turns web push on this browser on and off. Hidden where the gateway has no web push.
 *
 *   <script type="module" src="/static/push.js"></script>
 *   <push-switch></push-switch>
 *
 * Attributes   src    base URL of the gateway, on the page's own origin; empty: its root
 *              token  JWT of the embedding application; empty: the session cookie
 * Properties   strings (as `english` below; set it before the element is on the page)
 *
 * The switch is the browser's, not the person's: while it is on, each visit registers the browser for whoever is
 * signed in, which also keeps the registration fresh.
 */
import { create, say } from "./dom.js";
import { Gateway } from "./gateway.js";

const PATIENCE = 20_000;

const english = {
  label: "Push on this device",
  hint: "Also while this page is closed.",
  on: "This device gets your push notifications.",
  off: "This device gets no push notifications any more.",
  working: "One moment…",
  unsupported: "This browser takes no push notifications here. On an iPhone or iPad, add this page to the Home Screen first.",
  denied: "Notifications are blocked in the browser’s settings for this site.",
  dismissed: "Push needs your permission to show notifications.",
  unreachable: "Push could not be turned on: this browser cannot reach its push service. Try again later.",
  failed: (reason) => `That did not work: ${reason}.`,
};

/** A reason to show as it is. */
class Refusal extends Error {}

/** The browser's side of web push, and its registration at one gateway. */
class Push {
  #gateway;
  #id = null;

  constructor(source, token) {
    this.#gateway = new Gateway(source, token);
  }

  static get supported() {
    return isSecureContext && "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
  }

  /** The gateway's public key; null: it has no web push. */
  async key() {
    return (await this.#gateway.get("/api/push")).publicKey;
  }

  async subscription() {
    const registration = await navigator.serviceWorker.getRegistration(this.#gateway.url("/static/"));
    return (await registration?.pushManager.getSubscription()) ?? null;
  }

  /** Subscribes unless that was done with this key, and registers; permission is granted. */
  async turnOn(key, words) {
    const script = trusted(this.#gateway.url("/static/service-worker.js"));
    const { pushManager } = await active(await navigator.serviceWorker.register(script));
    let subscription = await pushManager.getSubscription();
    if (subscription && keyOf(subscription) !== key) {
      await subscription.unsubscribe();
      subscription = null;
    }
    try {
      const options = { userVisibleOnly: true, applicationServerKey: key };
      subscription ??= await inTime(pushManager.subscribe(options));
    } catch (error) {
      throw new Refusal(error.name === "NotAllowedError" ? words.denied : words.unreachable);
    }
    const { endpoint, keys } = subscription.toJSON();
    const device = await this.#gateway.put("/api/devices", { kind: "web_push", address: endpoint, keys });
    this.#id = device.id;
  }

  /** What the gateway does not hear of, it hears from the push service: the subscription is gone. */
  async turnOff() {
    await (await this.subscription())?.unsubscribe();
    if (this.#id) await this.#gateway.delete(`/api/devices/${this.#id}`).catch(() => {});
    this.#id = null;
  }
}

/** The public key a subscription was made with: push services take no message signed with another. */
function keyOf({ options }) {
  const bytes = new Uint8Array(options.applicationServerKey ?? []);
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}

/** Without a way to its push service a browser may try for ever. What comes too late is given back. */
function inTime(subscribing) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => {
      subscribing.then((subscription) => subscription.unsubscribe()).catch(() => {});
      reject(new Error("no answer in time"));
    }, PATIENCE);
  });
  return Promise.race([subscribing, late]).finally(() => clearTimeout(timer));
}

/** A registration whose worker works: without one there is nothing to subscribe for. */
async function active(registration) {
  const worker = registration.active ?? registration.waiting ?? registration.installing;
  while (worker.state !== "activated") {
    if (worker.state === "redundant") throw new Error("the service worker could not be installed");
    await new Promise((changed) => worker.addEventListener("statechange", changed, { once: true }));
  }
  return registration;
}

/** A page may demand Trusted Types for the address of a script. */
let policy = null;
function trusted(url) {
  policy ??= globalThis.trustedTypes?.createPolicy("tocsin-push", { createScriptURL: (own) => own });
  return policy?.createScriptURL(url) ?? url;
}

export class PushSwitch extends HTMLElement {
  // An application may have set it before this definition was loaded.
  strings = this.strings ?? {};
  #words = english;
  #push = null;
  #key = null;
  #working = false;
  #box;
  #note;

  connectedCallback() {
    if (!this.#push) this.#build();
    this.#start().catch((error) => this.#say(this.#words.failed(error.message)));
  }

  #build() {
    const words = (this.#words = { ...english, ...this.strings });
    this.#push = new Push(this.getAttribute("src") ?? "", this.getAttribute("token") ?? "");
    this.#box = create("input", {
      type: "checkbox",
      role: "switch",
      disabled: true,
      onclick: (event) => this.#working && event.preventDefault(),
      onchange: () => this.#turn(this.#box.checked),
    });
    this.#note = create("span", { part: "note", role: "status" });
    this.append(create("label", { part: "label" }, this.#box, create("span", {}, words.label)), this.#note);
    this.hidden = true;
  }

  async #start() {
    this.#key = await this.#push.key();
    this.hidden = this.#key === null;
    if (this.#key === null) return;
    if (!Push.supported) return this.#say(this.#words.unsupported);
    const subscription = await this.#push.subscription();
    this.#box.checked = Boolean(subscription);
    this.#say(Notification.permission === "denied" ? this.#words.denied : this.#words.hint);
    try {
      if (subscription) await this.#push.turnOn(this.#key, this.#words);
    } finally {
      this.#box.disabled = false;
    }
  }

  async #turn(on) {
    const words = this.#words;
    this.#working = true;
    this.#say(words.working);
    try {
      if (on) {
        const permission = await Notification.requestPermission();
        if (permission !== "granted")
          throw new Refusal(permission === "denied" ? words.denied : words.dismissed);
        await this.#push.turnOn(this.#key, words);
      } else await this.#push.turnOff();
      this.#say(on ? words.on : words.off);
    } catch (error) {
      if (on) await this.#push.turnOff().catch(() => {});
      this.#box.checked = !on;
      this.#say(error instanceof Refusal ? error.message : words.failed(error.message));
    }
    this.#working = false;
  }

  #say(text) {
    say(this.#note, text);
  }
}

customElements.define("push-switch", PushSwitch);
