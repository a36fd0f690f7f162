// Owns the run as the page sees it: workers, machines with their entries, tests and where their time went.
// Times are milliseconds since the run began. Knows nothing of the document.

// What a test waits for; the outermost one counts.
const CATEGORIES = ["start", "wait", "health", "file", "command", "monitor"];
const CATEGORY_OF = {start: 0, boot: 0, layer: 0, network: 0, wait: 1, health: 2, file: 3, command: 4, qmp: 5, screen: 5, state: 5};
const MANNERS = {boot: "booted", clone: "cloned"};
const BAD = new Set(["failed", "error"]);

class Lane {
  // A machine; its entries are columns, sorted by their beginnings.
  constructor(row, run) {
    Object.assign(this, row);
    this.began = row.started / 1e3;
    this.ended = Math.max(row.ended / 1e3, this.began);
    this.ready = Math.min(this.began + row.seconds * 1e3, this.ended);
    this.asked = row.asked / 1e3; // a test wanted the machine, and had it
    this.handed = row.handed / 1e3;
    this.first = Math.min(this.asked, this.began); // what was made for it before is shown as well
    this.kinds = Uint8Array.from(row.entries.kind);
    this.from = Float64Array.from(row.entries.time, (time) => time / 1e3);
    this.to = Float64Array.from(row.entries.duration, (duration, i) => this.from[i] + duration / 1e3);
    this.reach = new Float64Array(this.to.length); // the latest end so far: what lets a search find long entries
    this.to.reduce((latest, end, i) => (this.reach[i] = Math.max(latest, end)), -Infinity);
    this.run = run;
  }
  get length() { return this.from.length; }
  kind(i) { return this.run.kinds[this.kinds[i]]; }
  what(i) { return this.run.texts[this.entries.what[i]]; }
  outcome(i) { return this.run.texts[this.entries.outcome[i]] ?? ""; }
  // The indices [first, end) among which is everything that touches this span of time.
  within(from, to) { return [firstAbove(this.reach, from), firstAbove(this.from, to)]; }
}

class Run {
  constructor(data) {
    Object.assign(this, data);
    this.lanes = data.lanes.map((row) => new Lane(row, this));
    this.tests = data.tests.map((row, index) => ({...row, index, phases: row.phases.map(([when, from, to]) =>
      ({when, from: from / 1e3, to: to / 1e3}))}));
    this.end = data.seconds * 1e3;
    for (const lane of this.lanes) this.end = Math.max(this.end, lane.ended);
    const names = new Set([...this.tests, ...this.lanes].map((one) => one.worker));
    this.workers = [...names].sort((a, b) => a.localeCompare(b, "en", {numeric: true})).map((name) => ({
      name,
      tests: this.tests.filter((test) => test.worker === name),
      lanes: this.lanes.filter((lane) => lane.worker === name).sort((a, b) => a.began - b.began),
    }));
    for (const worker of this.workers) this.#join(worker);
  }
  // Find whose machine is whose: of a test, of its class, module, package or the session; and what its time went to.
  #join(worker) {
    const owned = new Map();
    for (const lane of worker.lanes) {
      lane.users = [];
      if (!owned.has(lane.test)) owned.set(lane.test, []);
      owned.get(lane.test).push(lane);
    }
    for (const test of worker.tests) {
      test.from = Math.min(...test.phases.map((phase) => phase.from));
      test.to = Math.max(...test.phases.map((phase) => phase.to));
      test.lanes = owners(test.nodeid).flatMap((owner) => owned.get(owner) ?? [])
        .filter((lane) => lane.asked < test.to && lane.ended > test.from);
      for (const lane of test.lanes) lane.users.push(test);
      test.spent = spending(test);
    }
  }
}

function owners(nodeid) {
  const found = [nodeid, "", "."];
  for (const match of nodeid.matchAll(/::|\//g)) found.push(nodeid.slice(0, match.index));
  return found;
}

// Milliseconds of a test by category, "own" being the rest. What lies within something else is not counted twice.
function spending(test) {
  const spans = [];
  for (const lane of test.lanes) {
    spans.push([lane.asked, lane.handed, 0]);
    const [first, end] = lane.within(test.from, test.to);
    for (let i = first; i < end; i++) {
      const category = CATEGORY_OF[lane.kind(i)];
      if (category !== undefined && lane.to[i] > lane.from[i]) spans.push([lane.from[i], lane.to[i], category]);
    }
  }
  spans.sort((a, b) => a[0] - b[0]);
  const spent = {total: test.to - test.from};
  let before = 0;
  CATEGORIES.forEach((name, category) => {
    let covered = 0, until = test.from;
    for (const [from, to, which] of spans) {
      if (which > category || to <= until) continue;
      const end = Math.min(to, test.to);
      covered += Math.max(end - Math.max(from, until), 0);
      until = Math.max(until, end);
    }
    spent[name] = covered - before;
    before = covered;
  });
  spent.own = spent.total - before;
  return spent;
}

// From when to when something was: {test}, {lane} or {lane, index} of a entry.
function span({test, lane, index}) {
  if (test) return [test.from, test.to];
  return index === undefined ? [lane.began, lane.ended] : [lane.from[index], lane.to[index]];
}

function firstAbove(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > value) high = middle; else low = middle + 1;
  }
  return low;
}

function duration(ms) {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(2)} s`;
  const seconds = Math.round(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
