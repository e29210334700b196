/**
 * <notification-center>: a bell with the unread count, and the list behind it, live.
 *
 *   <script type="module" src="https://notifications.example.com/static/notification-center.js"></script>
 *   <notification-center src="https://notifications.example.com" token="…"></notification-center>
 *
 * Attributes   src    base URL of the gateway; empty: the page's own origin
 *              token  JWT of the embedding application; empty: the session cookie
 *              type   show only this type
 * Properties   unread (read only), strings (see strings.js; set it before the element is on the page)
 * Methods      open(), close()
 * Events       notification {detail: item}          one has arrived; with item.silent make nothing of it
 *              unread-count {detail: {count}}       the number on the badge is new
 *              notification-open {detail: item}     one is about to be opened; preventDefault() keeps the page here
 *              signed-out                           the session is refused or over: set a new token, or sign in
 * Looks        custom properties --tocsin-… (style.js), the page's color-scheme, and ::part(bell | badge | panel | item | …)
 */
import { alerts } from "./alerts.js";
import { create, safeAddress, say, set } from "./dom.js";
import { icon } from "./icons.js";
import { Inbox } from "./inbox.js";
import { Panel } from "./panel.js";
import { english } from "./strings.js";
import { sheet } from "./style.js";
import { languageOf } from "./time.js";

const GATHERING = 400;
const MOST_ON_BADGE = 99;
const SWING = ["0", "-14deg", "11deg", "-7deg", "4deg", "0"].map((rotate) => ({ rotate }));

export class NotificationCenter extends HTMLElement {
  static observedAttributes = ["src", "token", "type"];

  // An application may have set it before this definition was loaded.
  strings = this.strings ?? {};
  #words = english;
  #inbox = null;
  #panel = null;
  #bell;
  #badge;
  #news;
  #count = null;
  #status = "";
  #gathered = [];
  #drawing = false;
  #restarting = false;

  get unread() {
    return this.#inbox?.unread ?? null;
  }

  open() {
    if (!this.#panel.open) this.#panel.element.showPopover();
  }

  close() {
    if (this.#panel.open) this.#panel.element.hidePopover();
  }

  connectedCallback() {
    if (!this.shadowRoot) this.#build();
    addEventListener("pagehide", this.#leave);
    addEventListener("pageshow", this.#comeBack);
    this.#start();
  }

  disconnectedCallback() {
    removeEventListener("pagehide", this.#leave);
    removeEventListener("pageshow", this.#comeBack);
    this.#inbox.stop();
  }

  attributeChangedCallback(name, before, after) {
    if (!this.isConnected || !this.#inbox || before === after) return;
    if (name === "type") this.#narrow({ type: after ?? "" });
    else if (!this.#restarting) {
      // src and token are often set together: one restart for both.
      this.#restarting = true;
      queueMicrotask(() => {
        this.#restarting = false;
        this.#inbox.stop();
        this.#start();
      });
    }
  }

  #start() {
    const inbox = new Inbox(this.getAttribute("src") ?? "", this.getAttribute("token") ?? "");
    this.#inbox = inbox;
    inbox.filter = { type: this.getAttribute("type") ?? "", unread: false };
    inbox.addEventListener("change", () => this.#later());
    inbox.addEventListener("arrive", ({ detail }) => this.#arrived(detail));
    inbox.start();
    if (this.#panel.open) inbox.look();
    this.#later();
  }

  // A page in the back/forward cache must not hold a connection.
  #leave = () => this.#inbox.stop();
  #comeBack = (event) => event.persisted && this.#start();

  #build() {
    this.#words = { ...english, ...this.strings };
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    this.#badge = create("span", { part: "badge", "aria-hidden": "true" });
    const prepare = () => this.#inbox.prepare();
    this.#bell = create(
      "button",
      {
        type: "button",
        part: "bell",
        popovertarget: "panel",
        "aria-haspopup": "dialog",
        "aria-expanded": "false",
        onpointerenter: prepare,
        onfocus: prepare,
      },
      icon("bell"),
      this.#badge,
    );
    this.#news = create("div", {
      class: "quiet",
      role: "log",
      "aria-live": "polite",
      "aria-relevant": "additions text",
    });
    this.#panel = new Panel(this.#bell, this.#wishes(), this.#words, languageOf(this));
    root.append(this.#bell, this.#panel.element, this.#news);
  }

  #wishes() {
    return {
      open: (item, event) => this.#open(item, event),
      read: (id) => this.#inbox.read(id),
      archive: (id) => this.#inbox.archive(id),
      members: (id, before) => this.#inbox.members(id, before),
      readAll: () => this.#inbox.readAll(),
      more: () => this.#inbox.loadMore(),
      retry: () => this.#inbox.look(),
      unread: (unread) => this.#narrow({ unread }),
      everything: () => this.removeAttribute("type"),
      alerts: async () => {
        await alerts.ask();
        this.#later();
      },
      shown: (shown) => {
        set(this.#bell, "aria-expanded", String(shown));
        if (shown) this.#inbox.look();
        else this.#inbox.lookAway();
        this.#later();
      },
    };
  }

  #narrow(change) {
    this.#inbox.filter = { ...this.#inbox.filter, ...change };
    this.#later();
  }

  /** The browser follows the link by itself, unless the page says it does. */
  #open(item, event) {
    this.#inbox.clicked(item.id);
    const plain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
    if (!plain) return;
    const allowed = this.#emit("notification-open", item);
    if (!allowed) event.preventDefault();
    if (safeAddress(item.actionUrl)) this.close();
  }

  /** In quiet hours it comes silently: the badge counts it and the list shows it, and nothing else happens. */
  #arrived(item) {
    this.#emit("notification", item);
    if (item.silent) return;
    this.#panel.welcome(item.id);
    alerts.show(item, () => this.#openFromAlert(item));
    if (this.#gathered.push(item) === 1) setTimeout(() => this.#announce(), GATHERING);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches)
      this.#bell.firstElementChild.animate(SWING, 700);
  }

  #openFromAlert(item) {
    focus();
    const address = safeAddress(item.actionUrl);
    this.#inbox.clicked(item.id);
    if (this.#emit("notification-open", item) && address) location.assign(address);
  }

  #announce() {
    const items = this.#gathered.splice(0);
    say(
      this.#news,
      items.length === 1 ? this.#words.arrived(items[0]) : this.#words.severalArrived(items.length),
    );
  }

  #emit(name, detail) {
    return this.dispatchEvent(
      new CustomEvent(name, { detail, bubbles: true, composed: true, cancelable: true }),
    );
  }

  #later() {
    if (this.#drawing) return;
    this.#drawing = true;
    queueMicrotask(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #draw() {
    const { unread, status } = this.#inbox;
    this.#badge.hidden = !unread;
    say(this.#badge, unread > MOST_ON_BADGE ? `${MOST_ON_BADGE}+` : String(unread || ""));
    set(this.#bell, "aria-label", this.#words.bell(unread));
    set(this.#bell, "data-status", status);
    if (this.#panel.open) this.#panel.draw(this.#inbox, this.#inbox.filter.type, alerts.permission);
    if (unread !== this.#count && unread !== null) this.#emit("unread-count", { count: unread });
    this.#count = unread;
    if (status === "signed-out" && this.#status !== status) this.#emit("signed-out");
    this.#status = status;
  }
}

customElements.define("notification-center", NotificationCenter);
