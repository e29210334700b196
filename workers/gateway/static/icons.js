import { createSvg } from "./dom.js";

/** 24 x 24, drawn with a stroke. */
const PATHS = {
  bell: ["M6 9a6 6 0 0 1 12 0c0 5 2 6.5 2.5 7H3.5C4 15.5 6 14 6 9Z", "M10 19.5a2.2 2.2 0 0 0 4 0"],
  comment: ["M4 5.5h16v11H11l-4.5 3.5v-3.5H4Z", "M8 9.5h8", "M8 12.7h5"],
  mention: [
    "M12 8.2a3.8 3.8 0 1 1 0 7.6 3.8 3.8 0 0 1 0-7.6Z",
    "M15.8 8.2v5.3a2.35 2.35 0 0 0 4.7 0V12a8.5 8.5 0 1 0-3.4 6.8",
  ],
  like: [
    "M12 19.8C5.5 15.6 3.2 12.4 3.2 9.2a4.5 4.5 0 0 1 8.8-1.4 4.5 4.5 0 0 1 8.8 1.4c0 3.2-2.3 6.4-8.8 10.6Z",
  ],
  follow: [
    "M9.5 4.2a3.8 3.8 0 1 1 0 7.6 3.8 3.8 0 0 1 0-7.6Z",
    "M2.8 20c.6-4 3.2-6 6.7-6s6.1 2 6.7 6",
    "M18.5 8v6",
    "M15.5 11h6",
  ],
  message: ["M3.5 5.5h17v13h-17Z", "m4 6.5 8 6.5 8-6.5"],
  system: [
    "M12 8.8a3.2 3.2 0 1 1 0 6.4 3.2 3.2 0 0 1 0-6.4Z",
    "M12 3v3m0 12v3m9-9h-3M6 12H3m15.4-6.4-2.1 2.1M7.7 16.3l-2.1 2.1m12.8 0-2.1-2.1M7.7 7.7 5.6 5.6",
  ],
  order: ["M4 8 12 4l8 4v8.5L12 20.5l-8-4Z", "m4.3 8.2 7.7 3.8 7.7-3.8", "M12 12v8.3"],
  payment: ["M3 5.5h18v13H3Z", "M3 10h18", "M6.5 14.7h4"],
  security: ["M12 3.2 19.5 6v5.5c0 4.6-3 7.8-7.5 9.3-4.5-1.5-7.5-4.7-7.5-9.3V6Z", "m9 11.8 2.2 2.2 4-4.2"],
  check: ["m5 12.5 4.5 4.5L19 7.5"],
  archive: ["M3.5 5h17v4h-17Z", "M5 9v10.5h14V9", "M10 13h4"],
  close: ["m6 6 12 12", "m18 6-12 12"],
  chevron: ["m7 10 5 5 5-5"],
};

/** What a type or category is drawn as, when it has no drawing of its own name. */
const ALIASES = {
  comments: "comment",
  reply: "comment",
  mentions: "mention",
  reaction: "like",
  likes: "like",
  social: "follow",
  follower: "follow",
  messages: "message",
  chat: "message",
  email: "message",
  orders: "order",
  shipping: "order",
  payments: "payment",
  invoice: "payment",
  billing: "payment",
  account: "security",
  updates: "system",
};

export function icon(name) {
  const paths = PATHS[name].map((d) => createSvg("path", { d }));
  return createSvg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, ...paths);
}

/** The drawing for a notification: its type's, else its category's, else a bell. */
export function iconName({ type, category }) {
  for (const name of [type, category]) {
    const known = Object.hasOwn(ALIASES, name) ? ALIASES[name] : name;
    if (Object.hasOwn(PATHS, known)) return known;
  }
  return "bell";
}
