// Owns the timeline's picture: a row of tests and rows of machines for each worker, drawn on a canvas for the span in
// view. What falls on the same pixels is drawn once, so its cost grows with the screen, hardly with the run.

const RULER = 22, TESTS = 24, LANE = 38, GAP = 10;
const STRIPS = {life: [3, 13], work: [18, 9], fine: [29, 6]}; // offset and height within a lane
const FINE = new Set(["qmp", "event", "screen", "state", "cable", "capture", "recording"]);
const SHORTEST = 0.02; // ms in view at most zoom
const STEPS = [1, 2, 5];

class Timeline {
  constructor(run, box, overview) {
    this.run = run;
    this.box = box;
    this.canvas = box.querySelector("canvas");
    this.overview = overview;
    this.view = {from: 0, to: run.end};
    this.hidden = new Set(); // kinds that are not shown
    this.selected = null; // {test}, {lane} or {lane, index}
    this.rows = [];
  }

  // Lay out the rows: machines that were never there at once share one, unless each is to have its own.
  layOut(tests, lanes, apart) {
    this.tests = tests;
    this.apart = apart;
    this.rows = [];
    let y = RULER;
    for (const worker of this.run.workers) {
      const shown = worker.lanes.filter((lane) => lanes.has(lane));
      if (!shown.length && !worker.tests.some((test) => tests.has(test))) continue;
      this.rows.push({y, height: TESTS, worker, label: worker.name || "tests", lanes: null});
      y += TESTS;
      const packed = [];
      for (const lane of shown) {
        const row = apart ? undefined : packed.find((one) => one.at(-1).ended <= lane.first);
        if (row) row.push(lane); else packed.push([lane]);
      }
      packed.forEach((row, number) => {
        this.rows.push({y, height: LANE, worker, label: apart ? row[0].name : number ? "" : "machines", lanes: row});
        y += LANE;
      });
      y += GAP;
    }
    this.height = Math.max(y, RULER + LANE);
    this.canvas.parentElement.style.height = `${this.height}px`;
    this.resize();
  }

  // Take over size and colours from the document.
  resize() {
    const style = getComputedStyle(document.documentElement);
    this.ink = new Proxy({}, {get: (known, name) => (known[name] ??= style.getPropertyValue(`--${name}`).trim())});
    this.width = this.box.clientWidth;
    this.gutter = this.width < 640 ? 84 : 230;
    fit(this.canvas, this.width, this.box.clientHeight);
    fit(this.overview.canvas, this.width, OVERVIEW);
    this.draw();
  }

  redraw() {
    this.pending ??= requestAnimationFrame(() => this.draw());
  }

  show(from, to) {
    const span = Math.min(Math.max(to - from, SHORTEST), this.run.end);
    from = Math.min(Math.max((from + to - span) / 2, 0), this.run.end - span);
    this.view = {from, to: from + span};
    this.redraw();
  }
  zoom(factor, around = this.middle) {
    const {from, to} = this.view;
    if (to - from <= SHORTEST && factor < 1) return;
    this.show(around - (around - from) * factor, around + (to - around) * factor);
  }
  pan(ms) {
    const by = Math.min(Math.max(ms, -this.view.from), this.run.end - this.view.to);
    this.show(this.view.from + by, this.view.to + by);
  }

  // The middle of what is chosen, if it is in view, else of the view.
  get middle() {
    const {from, to} = this.view, [first, last] = this.selected ? span(this.selected) : [from, to];
    return first < to && last > from ? (Math.max(first, from) + Math.min(last, to)) / 2 : (from + to) / 2;
  }
  get scale() { return (this.width - this.gutter) / (this.view.to - this.view.from); }
  x(time) { return this.gutter + (time - this.view.from) * this.scale; }
  #isInView(from, to) { return to >= this.view.from && from <= this.view.to; }
  time(x) { return this.view.from + (x - this.gutter) / this.scale; }

  draw() {
    this.pending = null;
    const {ink, width} = this, height = this.canvas.clientHeight || this.box.clientHeight;
    const pen = this.pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    pen.textBaseline = "middle";
    pen.direction = "ltr";
    const scroll = this.box.scrollTop;
    const visible = this.rows.filter((row) => row.y + row.height > scroll && row.y < scroll + height);
    pen.save();
    pen.beginPath();
    pen.rect(this.gutter, 0, width - this.gutter, height);
    pen.clip();
    const ticks = this.#ticks();
    for (const tick of ticks) this.#fill(ink.line, this.x(tick), 0, 1, height);
    for (const row of visible) {
      const y = row.y - scroll;
      if (row.lanes) {
        this.#shade(row, y);
        for (const lane of row.lanes) if (this.#isInView(lane.first, lane.ended)) this.#lane(lane, y);
      } else this.#tests(row.worker, y);
    }
    pen.restore();
    this.#gutter(visible, scroll);
    this.#ruler(ticks);
    this.overview.draw(this);
  }

  #fill(color, x, y, width, height) {
    this.pen.fillStyle = color;
    this.pen.fillRect(x, y, width, height);
  }

  #ticks() {
    const {from, to} = this.view, wanted = (110 / this.scale), power = 10 ** Math.floor(Math.log10(wanted));
    const step = power * (STEPS.find((one) => one * power >= wanted) ?? 10);
    const first = Math.ceil(from / step), count = Math.floor(to / step) - first + 1;
    return Array.from({length: Math.max(count, 0)}, (_, i) => (first + i) * step);
  }

  #ruler(ticks) {
    const {pen, ink} = this;
    this.#fill(ink.surface, 0, 0, this.width, RULER - 2);
    pen.font = ink.small;
    const unit = duration(this.view.to - this.view.from);
    this.#text(`${unit} in view`, 10, RULER / 2 - 1, this.gutter - 16, ink.quiet);
    const digits = ticks.length > 1 ? Math.max(0, Math.ceil(-Math.log10((ticks[1] - ticks[0]) / 1000))) : 3;
    for (const tick of ticks) {
      const label = `${(tick / 1000).toFixed(digits)} s`, room = this.width - 4 - pen.measureText(label).width;
      const x = this.x(tick) + 4; // beside the line, on its other side where it would be cut
      this.#text(label, x > room ? room - (this.width - x) : x, RULER / 2 - 1, 100, ink.quiet);
    }
    this.#fill(ink.line, 0, RULER - 2, this.width, 1);
  }

  #gutter(rows, scroll) {
    const {pen, ink} = this;
    this.#fill(ink.surface, 0, 0, this.gutter, this.canvas.clientHeight);
    this.#fill(ink.line, this.gutter - 1, 0, 1, this.canvas.clientHeight);
    for (const row of rows) {
      pen.font = row.lanes ? ink.small : ink.strong;
      const y = row.y - scroll + (row.lanes ? STRIPS.life[0] + STRIPS.life[1] / 2 : row.height / 2);
      this.#text(row.label, row.lanes ? 18 : 10, y, this.gutter - 26, row.lanes ? ink.quiet : ink.text);
      if (!row.lanes && row.y > RULER) this.#fill(ink.line, 0, row.y - scroll - GAP / 2, this.width, 1);
    }
  }

  // Text that is cut where the room ends; only as much of it is measured as could fit.
  #text(text, x, y, room, color) {
    if (room < 14) return;
    const {pen} = this;
    let cut = [...text.slice(0, Math.ceil(room / 2))];
    const full = cut.join("");
    if (full.length === text.length && pen.measureText(text).width <= room) cut = null;
    else while (cut.length && pen.measureText(`${cut.join("")}…`).width > room) {
      cut.length -= Math.ceil(cut.length / 12);
    }
    pen.fillStyle = color;
    if (!cut || cut.length > 1) pen.fillText(cut ? `${cut.join("")}…` : text, x, y);
  }

  #tests(worker, y) {
    const {pen, ink} = this;
    const inView = worker.tests.filter((test) => this.#isInView(test.from, test.to));
    pen.font = ink.small;
    for (const bad of [false, true]) {
      for (const test of inView) {
        if (BAD.has(test.outcome) !== bad) continue;
        pen.globalAlpha = this.tests.has(test) ? 1 : 0.15;
        const x = this.x(test.from), width = Math.max((test.to - test.from) * this.scale, bad ? 3 : 1);
        this.#fill(ink[test.outcome] || ink.skipped, x, y + 3, width > 3 ? width - 1 : width, TESTS - 7);
        if (width < 24) continue;
        for (const phase of test.phases) {
          if (phase.when === "call") continue;
          const from = Math.max(this.x(phase.from), 0), to = Math.min(this.x(phase.to), this.width) - 1;
          if (to > from) this.#fill(ink.veil, from, y + 3, to - from, TESTS - 7);
        }
        const left = Math.max(x, this.gutter);
        this.#text(test.name, left + 5, y + TESTS / 2, Math.min(x + width, this.width) - left - 9, ink.onbar);
      }
    }
    pen.globalAlpha = 1;
    const {test} = this.selected ?? {};
    if (test?.worker === worker.name) this.#frame(test.from, test.to, y + 2, TESTS - 5);
  }

  // Behind the machines: the spans of the tests that failed.
  #shade(row, y) {
    for (const test of row.worker.tests) {
      if (!BAD.has(test.outcome) || !this.tests.has(test) || !this.#isInView(test.from, test.to)) continue;
      this.#fill(this.ink.shade, this.x(test.from), y, Math.max((test.to - test.from) * this.scale, 1), LANE);
    }
  }

  #lane(lane, y) {
    const {pen, ink} = this;
    const x = this.x(lane.began), ready = this.x(lane.ready), width = Math.max(this.x(lane.ended) - x, 1);
    const [offset, height] = STRIPS.life, top = y + offset;
    if (lane.asked < lane.began) this.#fill(ink.boot, this.x(lane.asked), top + height / 2, x - this.x(lane.asked), 1);
    this.#fill(ink.life, x, top, width > 3 ? width - 1 : width, height);
    this.#fill(ink[lane.manner] || ink.boot, x, top, Math.max(Math.min(ready - x, width), 1), height);
    if (lane.manner === "boot" && ready - x > 24) {
      let at = lane.began;
      for (const seconds of Object.values(lane.phases).slice(0, -1)) {
        at += seconds * 1e3;
        if (at < lane.ready) this.#fill(ink.veil, this.x(at), top, 2, height);
      }
    }
    if (!this.apart && width > 30) {
      pen.font = ink.small;
      const left = Math.max(ready, x, this.gutter), begin = left - x < width / 2 ? left : Math.max(x, this.gutter);
      this.#text(lane.name, begin + 5, top + height / 2 + 0.5, Math.min(x + width, this.width) - begin - 8, ink.text);
    }
    this.#entries(lane, y);
    const chosen = this.selected?.lane === lane ? this.selected.index : null;
    if (chosen === undefined) this.#frame(lane.began, lane.ended, y + 2, LANE - 3);
    else if (chosen !== null) this.#frame(lane.from[chosen], lane.to[chosen], ...this.#strip(lane.kind(chosen), y, 1));
  }

  #strip(kind, y, more = 0) {
    const [offset, height] = kind === "death" ? [0, LANE - 2] : FINE.has(kind) ? STRIPS.fine : STRIPS.work;
    return [y + offset - more, height + 2 * more];
  }

  #entries(lane, y) {
    const {ink, run} = this, [first, end] = lane.within(this.view.from, this.view.to), scale = this.scale;
    const origin = this.gutter - this.view.from * scale;
    const kinds = run.kinds.map((kind) => this.hidden.has(kind) ? null : {
      color: ink[kind] || ink.qmp, strip: this.#strip(kind, y), least: kind === "death" ? 2 : 1, column: -1, bad: -1,
    });
    const marks = [];
    for (let i = first; i < end; i++) {
      const kind = kinds[lane.kinds[i]];
      if (!kind) continue;
      const from = origin + lane.from[i] * scale, to = origin + lane.to[i] * scale;
      if (to - from > 2) {
        const left = Math.max(from, 0), right = Math.min(to, this.width) - (to - from > 6 ? 1 : 0);
        this.#fill(kind.color, left, kind.strip[0], right - left, kind.strip[1]);
      } else if (Math.floor(from) > kind.column) {
        kind.column = Math.floor(from);
        this.#fill(kind.color, kind.column, kind.strip[0], kind.least, kind.strip[1]);
      }
      if (lane.entries.outcome[i] >= 0 && to > kind.bad) {
        marks.push([from, to - from, ...kind.strip]);
        kind.bad = to + 1;
      }
    }
    for (const [x, width, top, height] of marks) this.#fill(ink.failed, x, top + height - 2, Math.max(width, 3), 2);
  }

  #frame(from, to, y, height) {
    const {pen} = this, left = Math.max(this.x(from) - 1, 0), right = Math.min(this.x(to) + 1, this.width + 4);
    pen.strokeStyle = this.ink.focus;
    pen.lineWidth = 2;
    pen.strokeRect(left, y, Math.max(right - left, 4), height);
  }

  // What is at a point of the canvas; a few pixels beside count too.
  at(x, y) {
    const inDocument = y + this.box.scrollTop;
    const row = this.rows.find((one) => inDocument >= one.y && inDocument < one.y + one.height);
    if (!row || y < RULER || x < this.gutter) return null;
    const time = this.time(x), slack = 3 / this.scale;
    const touches = (one, from, to) => from - slack <= time && time <= to + slack;
    if (!row.lanes) {
      const near = row.worker.tests.filter((test) => touches(test, test.from, test.to) && this.tests.has(test));
      const test = near.find((one) => BAD.has(one.outcome)) ?? near[0];
      return test ? {test} : null;
    }
    const lane = row.lanes.findLast((one) => touches(one, one.first, one.ended));
    if (!lane) return null;
    const [first, end] = lane.within(time - slack, time + slack);
    let found = null;
    for (let i = end - 1; i >= first; i--) {
      const [top, height] = this.#strip(lane.kind(i), row.y, 1);
      if (this.hidden.has(lane.kind(i)) || inDocument < top || inDocument > top + height) continue;
      if (!touches(lane, lane.from[i], lane.to[i])) continue;
      if (lane.outcome(i) || lane.kind(i) === "death") return {lane, index: i};
      found ??= {lane, index: i};
    }
    return found ?? {lane};
  }
}
