/**
 * Shows what web push brings: JSON {title, body, tag, url, notificationId, type, badge, replaces: [tags]}.
 *
 * It is in no page's way: it fetches nothing for pages, and its scope is this directory, which holds none. An
 * application on another origin may import it in a service worker of its own, with importScripts.
 */
{
  const api = (path) => new URL(`../api/${path}`, location.href);

  /** A browser takes the subscription away from who shows nothing, so there is always something to show. */
  const show = async (data) => {
    let said = {};
    try {
      said = data.json() ?? {};
    } catch {
      // not from us, or of a kind to come
    }
    const { title, body, tag = "", url, notificationId, type, badge, replaces } = said;
    await registration.showNotification(title || "New notification", {
      body: body ?? "",
      tag,
      data: { url, notificationId, type },
    });
    for (const shown of await registration.getNotifications())
      if (shown.tag !== tag && replaces?.includes(shown.tag)) shown.close();
    if (Number.isInteger(badge)) await navigator.setAppBadge?.(badge).catch(() => {});
  };

  /** A path of this site, or http(s); everything else leads to the inbox. */
  const address = (url) => {
    const inbox = new URL("../notifications", location.href).href;
    if (!/^(\/|https?:\/\/)/i.test(url) || !URL.canParse(url, location.origin)) return inbox;
    const target = new URL(url, location.origin);
    return url.startsWith("/") && target.origin !== location.origin ? inbox : target.href;
  };

  const open = async (url) => {
    const windows = await clients.matchAll({ type: "window", includeUncontrolled: true });
    const there = windows.find((client) => client.url === url);
    await (there ? there.focus() : clients.openWindow(url));
  };

  /** The push service gave the browser another address: it is told to the gateway, or by the next visit's page. */
  const renew = async ({ newSubscription, oldSubscription }) => {
    const key =
      oldSubscription?.options.applicationServerKey ?? (await (await fetch(api("push"))).json()).publicKey;
    const options = { userVisibleOnly: true, applicationServerKey: key };
    const { endpoint, keys } = (
      newSubscription ?? (await registration.pushManager.subscribe(options))
    ).toJSON();
    await fetch(api("devices"), {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ kind: "web_push", address: endpoint, keys }),
    });
  };

  addEventListener("install", () => skipWaiting());
  addEventListener("push", (event) => event.waitUntil(show(event.data)));
  addEventListener("notificationclick", (event) => {
    event.notification.close();
    event.waitUntil(open(address(event.notification.data?.url ?? "")));
  });
  addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew(event)));
}
