// Puts the page together.

const LEGEND = [["starts", "start", "boot"], ["layers", "layer"], ["commands", "command"], ["waits", "wait"],
  ["files", "file"], ["health gates", "health"], ["QMP", "qmp"], ["events", "event"], ["screen", "screen"], ["states", "state"], ["deaths", "death"],
  ["networks", "network"], ["faults", "fault"], ["partitions", "partition"], ["cables", "cable"], ["captures", "capture"],
  ["recordings", "recording"], ["power cuts", "cut"]];

const $ = (id) => document.getElementById(id);
const run = new Run(JSON.parse($("data").textContent));
run.clock = (ms) => new Date(run.epoch * 1e3 + ms).toLocaleTimeString();
for (const test of run.tests) test.run = run;

const timeline = new Timeline(run, $("lanes"), new Overview($("overview")));
const controls = new Controls(timeline, {choose, hover});
const spent = new Spent(run, $("spent"), $("more"), reveal);

function choose(one) {
  timeline.selected = one;
  timeline.redraw();
  details($("details"), one, {choose, reveal});
  $("said").textContent = one ? sentence(one) : "";
}

function reveal(one) {
  if (one.test && !timeline.tests.has(one.test)) { $("filter").value = ""; $("bad").checked = false; refresh(); }
  controls.reveal(one);
}

function hover(one, event) {
  const tip = $("tip");
  tip.hidden = !one;
  timeline.canvas.classList.toggle("pointed", Boolean(one));
  if (!one) return;
  tip.textContent = sentence(one);
  tip.style.left = `${Math.max(Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8), 8)}px`;
  const below = event.clientY + 18, above = event.clientY - tip.offsetHeight - 10;
  tip.style.top = `${below + tip.offsetHeight > innerHeight ? above : below}px`;
}

function refresh() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), bad = $("bad").checked;
  const tests = new Set(run.tests.filter((test) => (!bad || BAD.has(test.outcome))
    && words.every((word) => test.nodeid.toLowerCase().includes(word))));
  const isAll = tests.size === run.tests.length;
  const lanes = new Set(run.lanes.filter((lane) => isAll || lane.users.some((test) => tests.has(test))));
  timeline.layOut(tests, lanes, $("apart").checked);
  spent.show([...tests]);
  const shown = new Set([...lanes].map((lane) => lane.worker + lane.name));
  starts($("starts"), run.starts.filter((one) => isAll || shown.has(one.worker + one.name)), run.lanes, reveal);
}

function header() {
  const counts = new Map();
  for (const test of run.tests) counts.set(test.outcome, (counts.get(test.outcome) ?? 0) + 1);
  const order = ["failed", "error", "passed", "skipped"];
  const rank = (outcome) => (order.indexOf(outcome) + 1) || 9;
  const sorted = [...counts].sort((a, b) => rank(a[0]) - rank(b[0]));
  $("counts").replaceChildren(...sorted.map(([outcome, count]) =>
    make("li", {}, dot(outcome), make("b", {}, `${count}`), ` ${outcome}`)));
  const machines = Object.entries(MANNERS).map(([manner, words]) =>
    [run.starts.filter((one) => one.manner === manner).length, words])
    .filter(([count]) => count).map((one) => one.join(" ")).join(", ");
  const layers = run.starts.filter((one) => one.manner === "layer").length;
  $("title").textContent = run.title;
  document.title = `${sorted.map(([outcome, count]) => `${count} ${outcome}`).join(", ") || "no tests"}: ${run.title}`;
  const when = new Date(run.epoch * 1e3).toLocaleString(undefined, {dateStyle: "long", timeStyle: "medium"});
  $("subtitle").textContent = [when, duration(run.seconds * 1e3), machines ? `machines: ${machines}` : "no machines",
    ...(layers ? [`layers made: ${layers}`] : []),
    ...new Set(run.lanes.map((one) => one.accelerator).filter(Boolean))].join(" · ");
  const dropped = run.lanes.reduce((sum, lane) => sum + lane.dropped, 0);
  const left = dropped ? ` ${dropped} entries are left out; a page holds ${run.most}.` : "";
  $("footer").textContent = `${run.versions}.${left}`;
}

function legend() {
  for (const [label, ...kinds] of LEGEND) {
    if (!kinds.some((kind) => run.kinds.includes(kind))) continue;
    const turn = (event) => {
      const isShown = timeline.hidden.has(kinds[0]);
      for (const kind of kinds) isShown ? timeline.hidden.delete(kind) : timeline.hidden.add(kind);
      event.currentTarget.setAttribute("aria-pressed", isShown);
      timeline.redraw();
    };
    const button = make("button", {type: "button", "aria-pressed": "true", onclick: turn}, dot(kinds[0]), label);
    $("legend").append(make("li", {}, button));
  }
}

header();
legend();
failures($("failures"), run.tests, reveal);
$("apart").checked = run.lanes.length <= 25;
refresh();

for (const id of ["filter", "bad", "apart"]) $(id).addEventListener("input", refresh);
$("in").addEventListener("click", () => timeline.zoom(1 / 2));
$("out").addEventListener("click", () => timeline.zoom(2));
$("fit").addEventListener("click", () => timeline.show(0, run.end));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== $("filter")) { event.preventDefault(); $("filter").focus(); }
  if (event.key === "Escape" && timeline.selected) choose(null);
});
new ResizeObserver(() => timeline.resize()).observe($("lanes"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => timeline.resize());
// A printer gets light colours, and as many rows as a sheet has room for.
addEventListener("beforeprint", () => { document.documentElement.dataset.paper = ""; timeline.resize(); });
addEventListener("afterprint", () => { delete document.documentElement.dataset.paper; timeline.resize(); });
