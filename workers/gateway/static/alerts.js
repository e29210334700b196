/**
 * The browser's own notifications, for when nobody looks at the page. Permission is never asked for here but on
 * `ask`, which belongs behind a click.
 */
export const alerts = {
  /** default: may be asked for · granted · denied · unsupported */
  get permission() {
    return globalThis.Notification?.permission ?? "unsupported";
  },

  ask() {
    return globalThis.Notification.requestPermission();
  },

  /**
   * Shows `item` if the page is hidden, unless it came silently; the tag makes it one alert however many tabs
   * show it.
   */
  show(item, opened) {
    if (this.permission !== "granted" || !document.hidden || item.read || item.silent) return;
    let alert;
    try {
      alert = new Notification(item.title, {
        body: item.message,
        tag: item.id,
        lang: document.documentElement.lang,
      });
    } catch {
      return; // Chrome on Android allows alerts from service workers only.
    }
    alert.onclick = () => {
      alert.close();
      opened();
    };
  },
};
