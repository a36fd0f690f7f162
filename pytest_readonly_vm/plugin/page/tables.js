// Owns what the page says in words: failures, tables, the details of what was chosen. Text goes in as text, never as
// HTML.

const ROWS = 100; // that a table has before it is asked for all
const SPENT = {start: "starts", wait: "waits", health: "health gates", file: "files", command: "commands",
  monitor: "monitor", own: "own code"};

// An element with attributes, listeners (`onclick`) and children; strings become text.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const name = (text) => make("bdi", {class: "name", title: text}, text);
const link = (to, text, reveal) =>
  make("button", {class: "link", type: "button", onclick: () => reveal(to)}, name(text));
const dot = (what) => make("span", {class: "dot", "data-ink": what});

function evidence(test) {
  const label = (i) => (test.evidence.length > 1 ? `evidence ${i + 1}` : "evidence");
  return test.evidence.map((href, i) => make("a", {href, rel: "noreferrer"}, label(i)));
}

const reason = (test) => [test.crash, test.message].filter(Boolean).join("\n");

// A test's outcome, name and evidence; its name goes to the timeline.
function titled(test, reveal) {
  return make("div", {class: "titled"}, dot(test.outcome), make("span", {class: "unseen"}, `${test.outcome}: `),
    link({test}, test.nodeid, reveal), ...evidence(test));
}

// Each failure in a line, with its message to unfold; a few are unfolded, of many only the first are listed.
function failures(section, tests, reveal, isAll = false) {
  const bad = tests.filter((test) => BAD.has(test.outcome)), shown = isAll ? bad : bad.slice(0, 5);
  section.hidden = !bad.length;
  const items = shown.map((test) => make("li", {}, titled(test, reveal),
    make("details", {open: bad.length <= 3 ? "" : null},
      make("summary", {}, make("span", {}, reason(test).replace(/\s+/g, " ").slice(0, 300) || "no message")),
      make("pre", {}, reason(test)))));
  const all = () => failures(section, tests, reveal, true);
  const more = make("button", {type: "button", onclick: all}, `Show all ${bad.length}`);
  section.querySelector("ol").replaceChildren(...items, ...(shown.length < bad.length ? [make("li", {}, more)] : []));
}

// A bar of parts, each [name of its colour, milliseconds], against the longest of all.
function bar(parts, longest) {
  const shown = parts.filter(([, ms]) => ms > 0);
  const label = shown.map(([what, ms]) => `${SPENT[what] ?? what} ${duration(ms)}`).join(", ");
  const element = make("div", {class: "parts", role: "img", "aria-label": label});
  for (const [what, ms] of shown) {
    const part = make("span", {"data-ink": what, title: `${SPENT[what] ?? what} ${duration(ms)}`});
    part.style.width = `${100 * ms / longest}%`;
    element.append(part);
  }
  return element;
}

class Spent {
  #order = ["total", -1];
  #all = false;
  #columns = {total: "total", ...SPENT};

  constructor(run, table, more, reveal) {
    Object.assign(this, {table, more, reveal});
    if (!run.kinds.includes("health")) delete this.#columns.health; // few have them
    more.addEventListener("click", () => { this.#all = true; this.show(this.tests); });
  }

  show(tests) {
    this.tests = tests;
    const [by, direction] = this.#order;
    const value = (test) => (by === "name" ? test.nodeid : test.spent[by]);
    const sorted = [...tests].sort((a, b) => direction * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
    const longest = Math.max(...sorted.map((test) => test.spent.total), 1e-9);
    const shown = this.#all ? sorted : sorted.slice(0, ROWS);
    this.table.replaceChildren(
      make("thead", {}, make("tr", {}, this.#head("name", "test"),
        ...Object.entries(this.#columns).map((one) => this.#head(...one)),
        make("th", {class: "shape", scope: "col"}, make("span", {class: "unseen"}, "shape")))),
      make("tbody", {}, ...shown.map((test) => this.#row(test, longest))));
    this.more.hidden = shown.length === sorted.length;
    this.more.textContent = `Show all ${sorted.length}`;
  }

  #head(key, label) {
    const [by, direction] = this.#order;
    const sort = by === key ? (direction < 0 ? "descending" : "ascending") : null;
    const turn = () => {
      this.#order = [key, by === key ? -direction : key === "name" ? 1 : -1];
      this.show(this.tests);
      this.table.querySelector(`[data-key=${key}]`).focus();
    };
    return make("th", {scope: "col", "aria-sort": sort},
      make("button", {type: "button", "data-key": key, onclick: turn},
      key in SPENT ? dot(key) : "", label, sort ? (direction < 0 ? " ↓" : " ↑") : ""));
  }

  #row(test, longest) {
    const {spent} = test;
    return make("tr", {},
      make("th", {scope: "row"}, titled(test, this.reveal)),
      ...Object.keys(this.#columns).map((key) => make("td", {class: spent[key] > 0 ? null : "none"},
        spent[key] > 0 ? duration(spent[key]) : "–")),
      make("td", {class: "shape"}, bar(Object.keys(SPENT).map((key) => [key, spent[key]]), longest)));
  }
}

// Starts of machines, of guests to copy, and what it took to make layers: they go to the machine that wanted them.
function starts(table, all, lanes, reveal) {
  const slowest = [...all].sort((a, b) => b.seconds - a.seconds).slice(0, 15);
  const longest = Math.max(...slowest.map((one) => one.seconds), 1e-9) * 1e3;
  const how = (one) => one.layer ? `layer ${one.layer}` : MANNERS[one.manner] ?? one.manner;
  const goal = (one) => lanes.find((lane) => lane.worker === one.worker && lane.name === one.name);
  table.replaceChildren(
    make("thead", {}, make("tr", {},
      ...["machine", "took", "how", "phases", ""].map((one) => make("th", {scope: "col"}, one)))),
    make("tbody", {}, ...slowest.map((one) => make("tr", {},
      make("th", {scope: "row"}, goal(one) ? link({lane: goal(one)}, one.name, reveal) : name(one.name)),
      make("td", {}, duration(one.seconds * 1e3)),
      make("td", {class: "text"}, [how(one), one.reason].filter(Boolean).join(": ")),
      make("td", {class: "text"}, one.manner === "boot" ? phases(one) : ""),
      make("td", {class: "shape"}, bar([[one.manner, one.seconds * 1e3]], longest))))));
}

function phases(one) {
  return Object.entries(one.phases).map(([what, seconds]) => `${what} ${duration(seconds * 1e3)}`).join(", ");
}

const what = (lane) => lane.subnet ? "network" : "machine";
const start = (lane) => lane.subnet ?? `${MANNERS[lane.manner] ?? lane.manner} in ${duration(lane.seconds * 1e3)}`;

// One line for what was chosen or is under the mouse.
function sentence({test, lane, index}) {
  if (test) return `${test.nodeid}: ${test.outcome}, ${duration(test.to - test.from)}`;
  if (index === undefined) return `${lane.name}: ${start(lane)}`;
  const took = lane.to[index] - lane.from[index], outcome = lane.outcome(index);
  return `${lane.kind(index)} ${lane.what(index)}${took ? `, ${duration(took)}` : ""}${outcome ? `: ${outcome}` : ""}`;
}

function details(aside, chosen, {choose, reveal}) {
  aside.hidden = !chosen;
  if (!chosen) return aside.replaceChildren();
  const {test, lane, index} = chosen, list = make("dl");
  const say = (term, ...values) => values.some((value) => value !== "" && value !== null && value !== undefined)
    && list.append(make("dt", {}, term), make("dd", {}, ...values));
  const {run} = lane ?? test;
  const when = (from, to) =>
    [`${(from / 1e3).toFixed(3)} s`, run.clock(from), to > from && `for ${duration(to - from)}`]
      .filter(Boolean).join(", ");
  const [from, to] = span(chosen);
  const title = test ? test.nodeid : index === undefined ? lane.name : lane.what(index);
  const ink = test ? test.outcome : index === undefined ? lane.manner : lane.kind(index);
  if (test) {
    say("outcome", test.outcome);
    say("when", when(from, to));
    say("worker", test.worker);
    say("evidence", ...evidence(test).flatMap((link) => [link, " "]));
    for (const phase of test.phases) say(phase.when, duration(phase.to - phase.from));
    for (const key in SPENT) if (test.spent[key] > 0) say(`in ${SPENT[key]}`, duration(test.spent[key]));
    for (const one of test.lanes) say(what(one), link({lane: one}, one.name, reveal));
    if (test.crash || test.message) say("message", make("pre", {}, reason(test)));
  } else if (index === undefined) {
    if (lane.handed > lane.asked) say("waited for", duration(lane.handed - lane.asked));
    say(lane.subnet ? "subnets" : "start", start(lane), lane.reason ? `: ${lane.reason}` : "");
    say(lane.manner === "boot" ? "phases" : "a copy of a boot with", phases(lane));
    say("when", when(from, to));
    for (const key of ["worker", "scope", "channel", "accelerator", "firmware", "image"]) say(key, lane[key] ?? "");
    say("entries", `${lane.length}`, lane.dropped ? `, and ${lane.dropped} that this page leaves out` : "");
  } else {
    say("kind", lane.kind(index));
    say("when", when(from, to));
    say("outcome", lane.outcome(index));
    say(what(lane), link({lane}, lane.name, reveal));
  }
  if (lane) {
    const users = lane.users.filter((one) => one.to >= from && one.from <= to);
    for (const one of users.slice(0, 20)) say("test", titled(one, reveal));
    if (users.length > 20) say("", `and ${users.length - 20} more`);
  }
  aside.replaceChildren(
    make("div", {class: "bar"}, dot(ink), make("h2", {}, name(title)),
      make("button", {type: "button", "aria-label": "Close the details", onclick: () => choose(null)}, "✕")), list);
}
