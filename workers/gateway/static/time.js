const UNITS = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];
const WEEK = 7 * 86_400;

/** How long ago, in words of `language`: "now", "2 min. ago", "yesterday", after a week the date. */
export function ago(instant, language, now = Date.now()) {
  const at = new Date(instant);
  const seconds = Math.max(0, (now - at) / 1000);
  if (seconds >= WEEK) {
    const year = at.getFullYear() === new Date(now).getFullYear() ? undefined : "numeric";
    return new Intl.DateTimeFormat(language, { day: "numeric", month: "short", year }).format(at);
  }
  const words = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
  for (const [unit, size] of UNITS) {
    if (seconds >= size) return words.format(-Math.floor(seconds / size), unit);
  }
  return words.format(0, "second");
}

/** The instant in full. */
export function full(instant, language) {
  return new Intl.DateTimeFormat(language, { dateStyle: "full", timeStyle: "short" }).format(
    new Date(instant),
  );
}

/** The language to write times in: the page's at this element, else the browser's. */
export function languageOf(element) {
  const given = element.closest("[lang]")?.lang;
  try {
    return Intl.getCanonicalLocales(given)[0] ?? navigator.language;
  } catch {
    return navigator.language;
  }
}
