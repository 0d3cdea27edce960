"use strict";
// The key stays in this tab's session storage: no cookie, so nothing another site could send along.
const KEY = "modelyard.key";
const byId = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function get(path) {
  const answer = await fetch(path, {
    headers: { authorization: `Bearer ${sessionStorage.getItem(KEY)}` },
    credentials: "omit",
  });
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.detail || "no answer"), { status: answer.status });
  return body;
}

const state = (endpoint) => endpoint.state.replace("STATE_", "");
const last = (name) => name.split("/").pop();

function row(variant, table) {
  const made = element("tr");
  const name = variant.variant + (variant.variant === table.champion ? " (champion)" : "");
  made.append(element("th", name, { scope: "row" }));
  made.append(element("td", `version ${last(variant.model_version)}`));
  const share = element("td", undefined, { class: "share" });
  const meter = element("meter", undefined, { min: 0, max: 100, value: variant.weight });
  meter.setAttribute("aria-label", `share of ${variant.variant}`);
  share.append(meter, ` ${variant.weight} %`);
  made.append(share, element("td", variant.shadow ? `shadows ${variant.shadow} %` : ""));
  return made;
}

function card(endpoint) {
  const made = element("article");
  const heading = element("h2", `${last(endpoint.name)} `);
  heading.append(element("span", state(endpoint).toLowerCase(), { class: state(endpoint) }));
  made.append(heading, element("p", endpoint.description || endpoint.model));
  const table = endpoint.traffic;
  if (!table || !table.variants.length) return made;
  const variants = element("table");
  variants.append(element("caption", `Traffic, table ${table.generation}`));
  for (const variant of table.variants) variants.append(row(variant, table));
  made.append(variants);
  return made;
}

function show(endpoints) {
  const section = byId("endpoints");
  section.replaceChildren(...endpoints.map(card));
  section.hidden = false;
  byId("say").textContent = endpoints.length ? "" : "There are no endpoints yet.";
}

function ask(message) {
  byId("door").hidden = false;
  byId("leave").hidden = true;
  byId("endpoints").hidden = true;
  byId("say").textContent = message;
}

async function refresh() {
  if (!sessionStorage.getItem(KEY)) return ask("");
  try {
    const page = await get("/v1/endpoints?page_size=200");
    byId("door").hidden = true;
    byId("leave").hidden = false;
    show(page.endpoints);
  } catch (error) {
    if (error.status === 401) {
      sessionStorage.removeItem(KEY);
      return ask("This key is not valid.");
    }
    byId("say").textContent = error.message;
  }
}

byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  byId("key").value = "";
  refresh();
});
byId("leave").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  refresh();
});
setInterval(() => { if (!document.hidden) refresh(); }, 3000);
refresh();
