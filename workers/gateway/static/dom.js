/**
 * Builds elements without markup: text is only ever text, so nothing a server sends can become an element.
 *
 * `on…` properties are listeners, `part` is also the class, false and null leave an attribute out, true sets it empty.
 */
export function create(tag, properties = {}, ...children) {
  return furnish(document.createElement(tag), properties, children);
}

export function createSvg(tag, properties = {}, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function furnish(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else set(element, name, value);
    if (name === "part" && value) set(element, "class", value);
  }
  element.append(...children);
  return element;
}

/** Sets or removes an attribute; touches nothing when it is already so. */
export function set(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value === true ? "" : value)) {
    element.setAttribute(name, value === true ? "" : value);
  }
}

/** Sets the text; touches nothing when it is already so, which keeps screen readers quiet. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * The address a notification may lead to, or null. Only paths of this site and http(s) are followed: a browser
 * reads `//host`, `/\host` and `javascript:` as something else than they look.
 */
export function safeAddress(address) {
  if (typeof address !== "string" || !/^(\/|https?:\/\/)/i.test(address)) return null;
  let url;
  try {
    url = new URL(address, location.origin);
  } catch {
    return null;
  }
  const here = url.origin === location.origin;
  return address.startsWith("/")
    ? here
      ? url.href
      : null
    : /^https?:$/.test(url.protocol)
      ? url.href
      : null;
}
